"""The command line against made-up services: answers by path, over httpx's mock transport."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from cli import connect
from cli.main import app
from client.api import Api
from client.timeline import timeline_of
from orderflow.routing import SERVICES

ORDER_ID: Final = "01a20c9c-842a-7161-bc3c-4230b7469cf6"
OTHER_ID: Final = "01a20c9c-842a-7161-bc3c-000000000000"
ORDER: Final[Mapping[str, Any]] = {
    "id": ORDER_ID, "status": "CANCELLED", "workflow": "choreography", "event_bus": "sns",
    "total": {"amount": 3998, "currency": "EUR"}, "trace_id": "a" * 32, "traced": True,
    "created_at": "2026-01-01T10:00:00.000Z", "updated_at": "2026-01-01T10:00:00.200Z",
    "reason": "undeliverable address", "customer_id": "c-42",
}  # fmt: skip


def entry(
    ms: int, service: str, name: str, kind: str = "event", note: str = "", number: int | None = None, resend: int = 0
) -> Any:
    """One entry of a timeline; its message id is derived from its time unless `number` is given."""
    return {
        "at": f"2026-01-01T10:00:{ms // 1000:02}.{ms % 1000:03}Z", "service": service, "kind": kind, "type": name,
        "message_id": f"m-{ms if number is None else number}-{name}", "causation_id": None, "note": note,
        "resend": resend,
    }  # fmt: skip


TIMELINE: Final[Mapping[str, Any]] = {
    "entries": [
        entry(0, "order", "OrderPlaced"),
        entry(40, "inventory", "StockReserved"),
        entry(70, "payment", "PaymentCharged"),
        entry(100, "shipping", "ShipmentRejected", note="undeliverable address"),
        entry(120, "payment", "PaymentRefunded"),
        entry(140, "inventory", "StockReleased"),
        entry(140, "order", "OrderCancelled"),
    ],
    "waiting_for": None,
    "incomplete": [],
}
"""An undeliverable order under choreography."""

Handler = Callable[[httpx.Request], httpx.Response]


def answer(routes: Mapping[str, Any]) -> Handler:
    """Answers `METHOD service/path`, such as `GET order/orders`, with JSON (a dict) or a response; 404 otherwise."""

    def handle(request: httpx.Request) -> httpx.Response:
        found = routes.get(f"{request.method} {request.url.host}{request.url.path}")
        if found is None:
            return problem(404, "Not Found", f"there is no {request.url.path}")
        if callable(found):
            found = found(request)
        return found if isinstance(found, httpx.Response) else httpx.Response(200, json=found)

    return handle


def problem(status: int, title: str, detail: str = "", *fields: tuple[str, str]) -> httpx.Response:
    """A problem+json answer."""
    content: dict[str, Any] = {"title": title, "detail": detail, "status": status}
    content["errors"] = [{"pointer": pointer, "detail": text} for pointer, text in fields]
    return httpx.Response(status, content=json.dumps(content), headers={"Content-Type": "application/problem+json"})


def api(handler: Handler, **more: Any) -> Api:
    """The services as `http://order`, `http://inventory`, …"""
    return Api({name: f"http://{name}" for name in SERVICES}, transport=httpx.MockTransport(handler), **more)


class Terminal:
    """Runs commands of `orderflow` against made-up services."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.requests: list[httpx.Request] = []

    def run(self, *arguments: str, routes: Mapping[str, Any] | None = None, jaeger: str | None = None) -> Result:
        """The result of one command. `requests` records the requests to the services."""
        handler = answer(routes or {})

        def remember(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            return handler(request)

        self._monkeypatch.setattr(connect, "connect", lambda: api(remember, jaeger=jaeger))
        return CliRunner().invoke(app, arguments, env={"COLUMNS": "140"})


MOVED = timeline_of(dict(ORDER), dict(TIMELINE))
"""An order in flight."""

CONFIRMED = timeline_of(
    dict(ORDER) | {"status": "CONFIRMED", "reason": None},
    {"entries": [entry(0, "order", "OrderPlaced"), entry(50, "order", "OrderConfirmed")], "waiting_for": None},
)


def shown(renderable: Any, width: int = 100) -> str:
    """What a terminal of this width shows, without colours."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()
