"""`orderflow dlq …`: what is asked of the services, and what is shown."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from cli import connect
from cli.main import app
from orderflow.routing import SERVICES
from runtime import RuntimeProblem
from tests.support.cli import ORDER, ORDER_ID, Terminal, answer, api, problem

LETTER: dict[str, Any] = {
    "id": "5f0c2a3e-0000-0000-0000-000000000001", "queue": "payment-dlq", "at": "2026-01-01T10:00:00.000Z",
    "reason": "handler failed 5 times; last: [KeyError]", "receives": 5, "size": 612, "order_id": ORDER_ID,
    "message_id": "01a20c9c-842a-7161-bc3c-00000000000a", "type": "StockReserved", "handler": "ChargePayment",
    "workflow": "choreography", "event_bus": "sns", "source": "orderflow/inventory",
    "sent_at": "2026-01-01T09:59:00.000Z", "resend": 0, "causation_id": None, "trace_id": "a" * 32,
    "data": {"items": [{"sku": "BOOK-1", "quantity": 1}]},
}  # fmt: skip
UNREADABLE = LETTER | {
    "id": "5f0c2a3e-0000-0000-0000-000000000002", "reason": "no envelope: Invalid JSON", "receives": 1, "data": {},
    **dict.fromkeys(("order_id", "message_id", "type", "handler", "workflow", "event_bus", "source", "sent_at",
                     "resend", "causation_id", "trace_id")),
}  # fmt: skip
SETTLED = {k: LETTER[k] for k in ("id", "queue", "order_id", "message_id", "type")}


def holding(*letters: dict[str, Any], messages: int | None = None) -> dict[str, Any]:
    """Payment holds these, the others nothing."""

    def dlq(service: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        count = len(items) if messages is None or not items else messages
        return {"items": items, "queues": [{"name": f"{service}-dlq", "messages": count}], "complete": True}

    return {f"GET {s}/dlq": dlq(s, list(letters) if s == "payment" else []) for s in SERVICES} | {
        "GET order/orders": {"items": [ORDER], "next_cursor": None}
    }


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(monkeypatch)


def posted(terminal: Terminal) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{r.url.host}{r.url.path}", json.loads(r.content)) for r in terminal.requests if r.method == "POST"]


def test_the_list_says_which_why_and_what_next(terminal: Terminal) -> None:
    result = terminal.run("dlq", "list", routes=holding(LETTER, UNREADABLE))
    assert result.exit_code == 0, result.output
    for part in ("payment-dlq: 2", LETTER["id"], "StockReserved", ORDER_ID, "[KeyError]", "(unreadable)", "redrive"):
        assert part in result.output
    assert len(terminal.requests) == len(SERVICES)


def test_without_dead_letters_it_says_so_and_where_else_to_look(terminal: Terminal) -> None:
    result = terminal.run("dlq", "list", routes=holding())
    assert "No dead letters" in result.output
    assert "order list --stuck" in result.output


def test_the_list_can_be_narrowed(terminal: Terminal) -> None:
    terminal.run("dlq", "list", "--service", "payment", "--order", "last", "-n", "7", routes=holding(LETTER))
    [asked] = [r for r in terminal.requests if r.url.path == "/dlq"]
    assert (asked.url.host, dict(asked.url.params)) == ("payment", {"limit": "7", "order_id": ORDER_ID})


def test_json_is_for_machines(terminal: Terminal) -> None:
    found = json.loads(terminal.run("dlq", "list", "--json", routes=holding(LETTER)).stdout)
    assert found["items"] == [{"service": "payment", **LETTER}]
    assert found["complete"] is True
    assert len(found["queues"]) == len(SERVICES)


def test_one_that_is_unavailable_hides_no_other(terminal: Terminal) -> None:
    routes = holding(LETTER) | {"GET shipping/dlq": problem(503, "Service Unavailable")}
    result = terminal.run("dlq", "list", routes=routes)
    assert "shipping does not answer" in result.output
    assert LETTER["id"] in result.output


def test_show_tells_all_that_may_be_told(terminal: Terminal) -> None:
    result = terminal.run("dlq", "show", LETTER["id"], routes=holding(LETTER))
    for part in (
        "payment: ChargePayment",
        "612 bytes",
        "5 times",
        "choreography · SNS",
        "BOOK-1",
        LETTER["message_id"],
    ):
        assert part in result.output
    missing = terminal.run("dlq", "show", "x", routes=holding())
    assert isinstance(missing.exception, RuntimeProblem)
    assert "dlq list" in missing.exception.way_out


@pytest.mark.parametrize("action", ["redrive", "discard"])
def test_ids_are_looked_for_everywhere(terminal: Terminal, action: str) -> None:
    """Only one service has them; who and why go with them."""
    nothing = {"settled": [], "missing": [LETTER["id"]], "left": 0}
    routes = {f"POST {s}/dlq/{action}": nothing for s in SERVICES} | {
        f"POST payment/dlq/{action}": {"settled": [SETTLED], "missing": [], "left": 0}
    }
    result = terminal.run("dlq", action, LETTER["id"], "--why", "mended", "--by", "ada", routes=routes)
    assert result.exit_code == 0, result.output
    assert ORDER_ID in result.output
    asked = posted(terminal)
    assert [path for path, _ in asked] == [f"{service}/dlq/{action}" for service in SERVICES]
    assert all(body == {"ids": [LETTER["id"]], "by": "ada", "why": "mended"} for _, body in asked)


def test_ids_that_are_nowhere_are_an_error(terminal: Terminal) -> None:
    routes = {f"POST {s}/dlq/redrive": {"settled": [], "missing": ["x"], "left": 0} for s in SERVICES}
    result = terminal.run("dlq", "redrive", "x", "--why", "mended", routes=routes)
    assert isinstance(result.exception, RuntimeProblem)


@pytest.mark.parametrize("which", [(), ("x", "--all"), ("--order", "last", "--all")])
def test_which_must_be_clear(terminal: Terminal, which: tuple[str, ...]) -> None:
    result = terminal.run("dlq", "redrive", *which, "--why", "mended", routes=holding(LETTER))
    assert isinstance(result.exception, RuntimeProblem)
    assert not posted(terminal)


def test_why_must_be_said(terminal: Terminal) -> None:
    result = terminal.run("dlq", "discard", "x", routes=holding(LETTER))
    assert result.exit_code == 2
    assert "--why" in result.output


def test_all_asks_first(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """No, and nothing is sent; yes, or --yes, and only those services are asked that hold something."""
    done = {"settled": [SETTLED], "missing": [], "left": 0}
    requests: list[httpx.Request] = []
    handler = answer(holding(LETTER) | {"POST payment/dlq/redrive": done})
    monkeypatch.setattr(connect, "connect", lambda: api(lambda r: (requests.append(r), handler(r))[1]))
    command = ["dlq", "redrive", "--all", "--why", "mended"]
    for given, sent in (("n\n", 0), ("y\n", 1)):
        result = CliRunner().invoke(app, command, input=given)
        assert "payment (1)" in result.output
        assert len([r for r in requests if r.method == "POST"]) == sent
    assert CliRunner().invoke(app, [*command, "--yes"]).exit_code == 0
    assert [r.url.host for r in requests if r.method == "POST"] == ["payment", "payment"]


def test_all_continues_until_none_is_left_and_no_further(terminal: Terminal) -> None:
    """A request settles a part. Letters that come back are not sent round and round."""
    routes = holding(LETTER, messages=3) | {
        "POST payment/dlq/redrive": {"settled": [SETTLED, SETTLED], "missing": [], "left": 3}
    }
    result = terminal.run("dlq", "redrive", "--all", "--yes", "--why", "mended", "--json", routes=routes)
    assert len(posted(terminal)) == 2
    assert len(json.loads(result.stdout)["settled"]) == 4


def test_help_teaches(terminal: Terminal) -> None:
    overview = terminal.run("dlq", "--help").output
    for part in ("list", "show", "redrive", "discard", "safe to repeat"):
        assert part in overview
    assert "inventory-subscription-dlq" in terminal.run("dlq", "list", "--help").output
