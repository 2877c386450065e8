"""The OpenAPI 3.1 document of an application, made from its routes and the declarations of its views."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from werkzeug.routing import Rule

from orderflow.web.idempotency import HEADER, LONGEST
from orderflow.web.operations import Operation, declared

_REF: Final = "#/components/schemas/{model}"
_ARGUMENT: Final = re.compile(r"<(?:(\w+)(?:\([^)]*\))?:)?(\w+)>")
_FORMATS: Final[Mapping[str, dict[str, Any]]] = {
    "id": {"type": "string", "format": "uuid"},
    "sku": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
    "int": {"type": "integer"},
}
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")

_PROBLEM: Final = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri-reference"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string", "format": "json-pointer"}, "detail": {"type": "string"}},
            },
        },
    },
}


_KEY: Final = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "the same key and request again has no second effect and gives the same answer; kept for a day or "
    "more, for each caller and route by itself",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST},
}
_REPLAYED: Final = {"Idempotent-Replayed": "`true` where the key was known"}


def document(app: Flask, service: str, *, with_keys: bool) -> dict[str, Any]:
    """The document of all declared views of `app`. `with_keys`: whether callers need a key (ORDERFLOW_AUTH=key)."""
    views = [(rule, d) for rule, d in _declared(app) if not d.hidden]
    wanted: set[tuple[type[BaseModel], JsonSchemaMode]] = set()
    for _, view in views:
        wanted |= {(m, "validation") for m in (view.body, view.query) if m}
        wanted |= {(m, "serialization") for m in view.answers.values() if m}
    ordered = sorted(wanted, key=lambda pair: (pair[0].__name__, pair[1]))
    names, definitions = models_json_schema(ordered, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for rule, view in views:
        path = _ARGUMENT.sub(r"{\2}", rule.rule)
        for method in sorted((rule.methods or set()) & set(_METHODS)):
            paths.setdefault(path, {})[method.lower()] = _operation(rule, method, view, names, with_keys=with_keys)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"orderflow: {service}",
            "version": version("orderflow"),
            "description": "Errors are problem+json (RFC 9457). Times are RFC 3339 in UTC. Amounts are minor units.",
        },
        "paths": paths,
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Problem": _PROBLEM},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _declared(app: Flask) -> Iterable[tuple[Rule, Operation]]:
    for rule in sorted(app.url_map.iter_rules(), key=lambda r: r.rule):
        view = declared(app.view_functions[rule.endpoint])
        if view is not None:
            yield rule, view


def _operation(
    rule: Rule, method: str, view: Operation, names: Mapping[Any, dict[str, Any]], *, with_keys: bool
) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _FORMATS.get(kind, {"type": "string"})}
        for kind, name in _ARGUMENT.findall(rule.rule)
    ]
    if view.query:
        schema = view.query.model_json_schema(ref_template=_REF)
        required = schema.get("required", ())
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": part}
            for name, part in schema.get("properties", {}).items()
        ]
    if view.idempotent == "key":
        parameters.append(_KEY)
    found: dict[str, Any] = {
        "summary": view.summary,
        "operationId": rule.endpoint.rpartition(".")[2],
        "responses": _responses(method, view, names, with_keys=with_keys),
    }
    if parameters:
        found["parameters"] = parameters
    if view.body:
        found["requestBody"] = {
            "required": not view.body_optional,
            "content": {"application/json": {"schema": names[view.body, "validation"]}},
        }
    if with_keys and view.access != "open":
        found["security"] = [{"key": []}]
    return found


def _responses(method: str, view: Operation, names: Mapping[Any, dict[str, Any]], *, with_keys: bool) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    headers = {**view.answer_headers, **(_REPLAYED if view.idempotent == "key" else {})}
    for status, model in sorted(view.answers.items()):
        responses[str(status)] = {"description": HTTPStatus(status).phrase}
        if model:
            responses[str(status)]["content"] = {"application/json": {"schema": names[model, "serialization"]}}
        if headers:
            responses[str(status)]["headers"] = {
                name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
            }
    refusals = set(view.problems)
    if view.access != "open":
        refusals |= {401, 403, 503} if with_keys else {503}
    if method != "GET":
        refusals |= {403}  # for a request from another site's page
    if view.body:
        refusals |= {400, 413, 415}
    if view.body or view.query or view.idempotent == "key":
        refusals |= {422}
    problem = {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}}
    for status in sorted(refusals):
        responses.setdefault(str(status), {"description": HTTPStatus(status).phrase, "content": problem})
    return responses
