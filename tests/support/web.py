"""A small application on the HTTP kit, with nothing behind it."""

from __future__ import annotations

import json
from typing import Annotated, Any

from flask import Blueprint
from flask.testing import FlaskClient
from pydantic import BaseModel, Field

from orderflow.broker.memory import MemoryBroker
from orderflow.contracts import Workflow
from orderflow.database import Database
from orderflow.errors import DatabaseUnavailable, Problem
from orderflow.messaging.outbox import Outbox
from orderflow.metrics import Gauge
from orderflow.service import Service
from orderflow.settings import Settings
from orderflow.web import Answer, RequestModel, body, create_app, operation, query

ORDER = "01980000-0000-7000-8000-000000000000"


class Line(RequestModel):
    sku: Annotated[str, Field(min_length=1, max_length=64)]
    quantity: Annotated[int, Field(gt=0, le=1000)]


class Asked(RequestModel):
    items: Annotated[tuple[Line, ...], Field(min_length=1, max_length=100)]
    note: Annotated[str, Field(max_length=500)] = ""
    weight: float = 1.0
    workflow: Workflow | None = None


class Page(RequestModel):
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    workflow: Workflow | None = None


class Given(BaseModel):
    id: str
    reason: str | None = None


class Nothing:
    service = "inventory"
    whole_orders = False

    def accept(self, message: Any) -> None:
        return None

    def handle(self, unit: Any, batch: Any) -> list[Any]:
        return []


def views() -> Blueprint:
    api = Blueprint("things", __name__)

    @api.post("/things")
    @operation("Takes a thing", body=Asked, answers={202: Given}, problems=(409,), idempotent="itself")
    def take() -> Answer:
        body(Asked)
        return Given(id=ORDER), 202, {"Location": f"/things/{ORDER}"}

    @api.post("/things/<id:thing_id>/close")
    @operation("Closes a thing", body=Page, body_optional=True, idempotent="itself")
    def close(thing_id: str) -> Answer:
        return {"limit": body(Page, optional=True).limit}

    @api.get("/things")
    @operation("Lists things", query=Page)
    def page() -> Answer:
        return {"limit": query(Page).limit}

    @api.get("/stock/<sku:sku>")
    @operation("Shows a SKU", answers={200: Given}, problems=(404,))
    def stock(sku: str) -> Answer:
        return Given(id=sku)

    @api.post("/restock")
    @operation("For operators", access="operator", idempotent="itself")
    def restock() -> Answer:
        return {}

    @api.get("/fail/<what>")
    @operation("Fails", hidden=True)
    def fail(what: str) -> Answer:
        match what:
            case "away":
                raise DatabaseUnavailable("host db, user me: connection refused")
            case "conflict":
                raise Problem(409, "Already confirmed", "it is too late")
            case _:
                raise RuntimeError("secret pm_card_visa")

    return api


def client_of(**settings: Any) -> FlaskClient:
    found = Settings(aws_endpoint_url="http://127.0.0.1:1", **settings)
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    service = Service(
        found,
        Nothing(),
        database,
        Outbox(database, lease=10),
        MemoryBroker(),
        gauges=lambda: [Gauge("orders_open", "Open", 3)],
    )
    return create_app(service, [views()]).test_client()


def problem_of(answer: Any) -> dict[str, Any]:
    assert answer.content_type == "application/problem+json"
    problem = json.loads(answer.text)
    assert problem["status"] == answer.status_code
    assert {"type", "title", "status", "detail", "instance"} <= problem.keys()
    assert len(answer.text) < 8000
    return problem
