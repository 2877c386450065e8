"""Bad input to the services' own routes: it is refused without effect, and the answer names the field. What depends on
the bytes of a connection is in tests/integration/test_bad_input.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import pytest

from orderflow.routing import SERVICES
from tests.support.bodies import order_body
from tests.support.world import World

JSON: Final[Mapping[str, str]] = MappingProxyType({"Content-Type": "application/json"})

# Bodies of POST /orders


def line(**changes: Any) -> dict[str, Any]:
    return {"items": [{"sku": "BOOK-1", "quantity": 1} | changes]}


def address(**changes: Any) -> dict[str, Any]:
    return {"shipping_address": order_body()["shipping_address"] | changes}


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown SKU": (line(sku="NOPE-1"), "/items/0/sku"),
    "SKU with a quote": (line(sku="' OR 1=1 --"), "/items/0/sku"),
    "negative quantity": (line(quantity=-1), "/items/0/quantity"),
    "quantity zero": (line(quantity=0), "/items/0/quantity"),
    "fractional quantity": (line(quantity=1.5), "/items/0/quantity"),
    "huge quantity": (line(quantity=10**9), "/items/0/quantity"),
    "absurd quantity": (line(quantity=10**400), "/items/0/quantity"),
    "quantity as text": (line(quantity="1"), "/items/0/quantity"),
    "quantity as a truth": (line(quantity=True), "/items/0/quantity"),
    "quantity null": (line(quantity=None), "/items/0/quantity"),
    "a price": (line(price=1), "/items/0/price"),
    "a currency": (line(currency="USD"), "/items/0/currency"),
    "empty order": ({"items": []}, "/items"),
    "items as an object": ({"items": {}}, "/items"),
    "101 lines": ({"items": [{"sku": "BOOK-1", "quantity": 1}] * 101}, "/items"),
    "unknown workflow": ({"workflow": "telepathy"}, "/workflow"),
    "unknown bus": ({"event_bus": "pigeon"}, "/event_bus"),
    "unknown field": ({"coupon": "FREE"}, "/coupon"),
    "field with a slash": ({"a/b~c": 1}, "/a~1b~0c"),
    "prototype": ({"__proto__": {"admin": True}}, "/__proto__"),
    "customer null": ({"customer_id": None}, "/customer_id"),
    "customer empty": ({"customer_id": ""}, "/customer_id"),
    "customer too long": ({"customer_id": "c" * 101}, "/customer_id"),
    "customer with NUL": ({"customer_id": "a\0b"}, "/customer_id"),
    "customer with a control": ({"customer_id": "a\x1bb"}, "/customer_id"),
    "address with NUL": (address(line1="a\0b"), "/shipping_address/line1"),
    "address with a line break": (address(name="a\nb"), "/shipping_address/name"),
    "country unknown": (address(country="Germany"), "/shipping_address/country"),
    "address with more": (address(planet="Mars"), "/shipping_address/planet"),
    "card number": ({"payment_method": "4242 4242 4242 4242"}, "/payment_method"),
    "payment method as a list": ({"payment_method": ["pm_card_visa"]}, "/payment_method"),
}
"""Changes to a valid order, and the field that the answer must name."""


@pytest.fixture(autouse=True)
def _nothing_is_placed(world: World) -> Iterator[None]:
    """Checks that no refused request leaves an order behind."""
    count = "SELECT count(*) FROM orders"
    before = world.execute("order", count)
    yield
    assert world.execute("order", count) == before


def refused(answer: Any, status: int) -> Any:
    """The problem document of an answer that refuses with this status."""
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["title"]
    return answer.json


@pytest.mark.parametrize("case", list(FIELDS))
@pytest.mark.row(15)
def test_a_wrong_field_is_refused_by_name(world: World, case: str) -> None:
    changes, pointer = FIELDS[case]
    problem = refused(world.http("order").post("/orders", data=json.dumps(order_body() | changes), headers=JSON), 422)
    assert pointer in [error["pointer"] for error in problem["errors"]]


VALID = json.dumps(order_body()).encode()
BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "JSON"),
    "not JSON": (b"{", 400, "JSON"),
    "XML": (b"<order/>", 400, "JSON"),
    "a list": (b"[]", 422, "document"),
    "a number": (b"7", 422, "document"),
    "null": (b"null", 422, "document"),
    "empty object": (b"{}", 422, "required"),
    "two documents": (VALID + VALID, 400, "JSON"),
    "NaN": (VALID.replace(b'"quantity": 2', b'"quantity": NaN'), 422, "quantity"),
    "Infinity": (VALID.replace(b'"quantity": 2', b'"quantity": -Infinity'), 422, "quantity"),
    "1e400": (VALID.replace(b'"quantity": 2', b'"quantity": 1e400'), 422, "quantity"),
    "4,000 digits": (VALID.replace(b'"quantity": 2', b'"quantity": ' + b"9" * 4000), 422, "quantity"),
    "duplicate key": (VALID.replace(b'"quantity": 2', b'"quantity": 2, "quantity": 1'), 400, "quantity"),
    "duplicate key above": (VALID[:-1] + b', "customer_id": "c-2"}', 400, "customer_id"),
    "lone surrogate": (VALID.replace(b"c-1", rb"\ud800"), 400, "JSON"),
    "a surrogate's raw bytes": (VALID.replace(b"c-1", b"\xed\xa0\x80"), 400, ""),
    "Latin-1": (VALID.replace(b"Ada", b"Ad\xe0"), 400, ""),
    "UTF-16": (VALID.decode().encode("utf-16"), 400, ""),
    "escaped NUL": (VALID.replace(b"c-1", rb"c\u0000"), 422, "customer_id"),
    "raw NUL": (VALID.replace(b"c-1", b"c\0"), 400, "JSON"),
    "10,000 deep": (b'{"items":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, ""),
    "10,000 deep in an unknown field": (VALID[:-1] + b',"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, ""),
    "as many lines as fit": (
        json.dumps(order_body(items=[{"sku": "B", "quantity": 1}] * 2_000), separators=(",", ":")).encode(), 422,
        "items",
    ),
}  # fmt: skip
"""Whole bodies, the status, and a word that the answer contains."""


@pytest.mark.parametrize("case", list(BODIES))
@pytest.mark.row(15)
def test_a_broken_body_is_refused(world: World, case: str) -> None:
    body, status, word = BODIES[case]
    problem = refused(world.http("order").post("/orders", data=body, headers=JSON), status)
    assert word in json.dumps(problem)


HEADERS: dict[str, tuple[dict[str, str], int]] = {
    "no content type": ({}, 415),
    "text": ({"Content-Type": "text/plain"}, 415),
    "a form": ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "another charset": ({"Content-Type": "application/json; charset=utf-16"}, 415),
    "compressed": (dict(JSON) | {"Content-Encoding": "gzip"}, 415),
    "key too long": (dict(JSON) | {"Idempotency-Key": "k" * 256}, 422),
    "key empty": (dict(JSON) | {"Idempotency-Key": ""}, 422),
}


@pytest.mark.parametrize("case", list(HEADERS))
def test_a_wrong_header_is_refused(world: World, case: str) -> None:
    headers, status = HEADERS[case]
    refused(world.http("order").post("/orders", data=VALID, headers=headers), status)


PATHS: dict[str, tuple[str, str, int]] = {
    "no id": ("order", "/orders/7", 404),
    "unknown id": ("order", "/orders/00000000-0000-7000-8000-000000000000", 404),
    "id in capitals": ("order", "/orders/00000000-0000-7000-8000-00000000000A", 404),
    "unknown timeline": ("order", "/orders/00000000-0000-7000-8000-000000000000/timeline", 404),
    "limit of none": ("order", "/orders?limit=0", 422),
    "limit of too many": ("order", "/orders?limit=100000", 422),
    "limit in words": ("order", "/orders?limit=ten", 422),
    "unknown status": ("order", "/orders?status=LOST", 422),
    "unknown workflow": ("order", "/orders?workflow=telepathy", 422),
    "unknown parameter": ("order", "/orders?colour=red", 422),
    "parameter twice": ("order", "/orders?limit=1&limit=2", 422),
    "unknown SKU": ("inventory", "/stock/NOPE-1", 404),
    "unknown reservation": ("inventory", "/reservations/00000000-0000-7000-8000-000000000000", 404),
    "unknown payment": ("payment", "/payments/00000000-0000-7000-8000-000000000000", 404),
    "unknown shipment": ("shipping", "/shipments/00000000-0000-7000-8000-000000000000", 404),
    "unknown saga": ("orchestrator", "/sagas/00000000-0000-7000-8000-000000000000", 404),
    "saga of no state": ("orchestrator", "/sagas?state=LOST", 422),
    "ledger of no order": ("payment", "/simulator/ledger?order_id=7", 422),
}


@pytest.mark.parametrize("case", list(PATHS))
def test_a_wrong_address_is_refused(world: World, case: str) -> None:
    service, path, status = PATHS[case]
    refused(world.http(service).get(path), status)


@pytest.mark.parametrize("service", SERVICES)
def test_other_methods_are_refused(world: World, service: str) -> None:
    refused(world.http(service).delete("/healthz"), 405)
