"""The OpenAPI document says what the service does."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.web import client_of

KEYS: dict[str, Any] = {"orderflow_auth": "key", "orderflow_api_keys": "a", "orderflow_operator_keys": "o"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    answer = client_of(**KEYS).get("/openapi.json")
    assert answer.content_type == "application/json"
    found: dict[str, Any] = answer.get_json()
    return found


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    """Version, title, and every declared route; hidden ones are left out."""
    assert document["openapi"].startswith("3.1.")
    own = {"/things", "/things/{thing_id}/close", "/stock/{sku}", "/restock"}
    of_every_service = {"/healthz", "/readyz", "/dlq", "/dlq/redrive", "/dlq/discard"}
    assert own | of_every_service == set(document["paths"])


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """No dangling `$ref`, no `$defs` left inside a schema."""

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            assert "$defs" not in value
            own = [value["$ref"]] if "$ref" in value else []
            return own + [r for v in value.values() for r in references(v)]
        if isinstance(value, list):
            return [r for v in value for r in references(v)]
        return []

    found = references(document)
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"], reference


def test_each_operation_is_whole(document: dict[str, Any]) -> None:
    """Unique ids; every path parameter declared; every answer described."""
    ids = []
    for path, methods in document["paths"].items():
        for operation in methods.values():
            ids.append(operation["operationId"])
            declared = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))
            assert operation["summary"]
            assert all(r["description"] for r in operation["responses"].values())
    assert len(set(ids)) == len(ids)


def test_requests_and_refusals_are_described(document: dict[str, Any]) -> None:
    """The body by its model, which takes no unknown field; errors as problem+json; keys where they are needed."""
    take = document["paths"]["/things"]["post"]
    schema = take["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert document["components"]["schemas"][schema]["additionalProperties"] is False
    assert {"202", "400", "401", "403", "409", "413", "415", "422", "503"} == set(take["responses"])
    assert "application/problem+json" in take["responses"]["422"]["content"]
    assert take["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]
    limit = document["paths"]["/things"]["get"]["parameters"][0]
    assert (limit["name"], limit["in"], limit["required"]) == ("limit", "query", False)
    assert not document["paths"]["/things/{thing_id}/close"]["post"]["requestBody"]["required"]


def test_without_keys_none_is_asked_for() -> None:
    """What is said is what is so: a post is still refused to other sites' pages."""
    paths = client_of().get("/openapi.json").get_json()["paths"]
    for method, operation in (o for methods in paths.values() for o in methods.items()):
        assert "security" not in operation
        assert "401" not in operation["responses"]
        assert ("403" in operation["responses"]) == (method != "get")
