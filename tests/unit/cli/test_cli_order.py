"""`orderflow order …` and `saga …`: what is asked, and what is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime import RuntimeProblem
from tests.support.cli import ORDER, ORDER_ID, OTHER_ID, TIMELINE, Terminal, problem

ROUTES: dict[str, Any] = {
    "POST order/orders": {k: v for k, v in ORDER.items() if k != "reason"} | {"status": "PLACED"},
    "GET order/orders": {"items": [ORDER], "next_cursor": OTHER_ID},
    f"GET order/orders/{ORDER_ID}": ORDER,
    f"GET order/orders/{ORDER_ID}/timeline": TIMELINE,
    f"POST order/orders/{ORDER_ID}/cancel": ORDER,
    f"POST order/orders/{ORDER_ID}/retry": ORDER,
    f"GET payment/payments/{ORDER_ID}": {
        "state": "undone", "payment_id": "ch_1", "reason": "", "refunded": {"amount": 3998, "currency": "EUR"},
    },
    f"GET inventory/reservations/{ORDER_ID}": {"state": "released", "reason": ""},
}  # fmt: skip


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(monkeypatch)


def test_plain_place_is_a_good_order(terminal: Terminal) -> None:
    """It names what was ordered, its price, its workflow, and where its trace is."""
    result = terminal.run("order", "place", routes=ROUTES, jaeger="http://jaeger")
    assert result.exit_code == 0, result.output
    for part in (ORDER_ID, "PLACED", "choreography · SNS", "39.98 EUR", f"http://jaeger/trace/{'a' * 32}"):
        assert part in result.output
    body = json.loads(terminal.requests[0].content)
    assert body["items"] == [{"sku": "BOOK-1", "quantity": 1}]
    assert body["payment_method"] == "pm_card_visa"
    assert "workflow" not in body, "it is the system's choice"


def test_place_sends_what_is_asked_for(terminal: Terminal) -> None:
    terminal.run(
        "order", "place", "--item", "BOOK-1:2", "--item", "MUG-1:1", "-p", "pm_card_declined", "--postal-code", "00000",
        "-w", "orchestration", "-b", "eventbridge", "--key", "k-1", routes=ROUTES,
    )  # fmt: skip
    body = json.loads(terminal.requests[0].content)
    assert body["items"] == [{"sku": "BOOK-1", "quantity": 2}, {"sku": "MUG-1", "quantity": 1}]
    assert body["shipping_address"]["postal_code"] == "00000"
    assert (body["workflow"], body["event_bus"]) == ("orchestration", "eventbridge")
    assert terminal.requests[0].headers["Idempotency-Key"] == "k-1"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--item", "BOOK-1"), "is not SKU:quantity"),
        (("--item", "BOOK-1:two"), "is not SKU:quantity"),
        (("--watch", "--compare"), "--compare one per workflow"),
        (("--compare", "--key", "k"), "several orders"),
    ],
)
def test_what_can_not_be_meant_is_refused_before_anything_is_sent(
    terminal: Terminal, arguments: tuple[str, ...], says: str
) -> None:
    result = terminal.run("order", "place", *arguments, routes=ROUTES)
    assert isinstance(result.exception, RuntimeProblem)
    assert says in result.exception.what
    assert terminal.requests == []


def test_an_unknown_workflow_names_the_choices(terminal: Terminal) -> None:
    result = terminal.run("order", "place", "-w", "chaos")
    assert result.exit_code == 2
    assert "choreography, orchestration" in result.output


def test_watch_draws_every_message_and_the_end(terminal: Terminal) -> None:
    """Without a terminal each line comes once."""
    result = terminal.run("order", "place", "--watch", routes=ROUTES)
    assert result.exit_code == 0, result.output
    for name in (e["type"] for e in TIMELINE["entries"]):
        assert result.output.count(f" {name}") == 1
    assert "CANCELLED after 140 ms, 7 messages: undeliverable address; compensated: payment, stock" in result.output


def test_watch_as_json_ends_with_the_whole_timeline(terminal: Terminal) -> None:
    result = terminal.run("order", "place", "--watch", "--json", routes=ROUTES)
    found = json.loads(result.output)
    assert (found["milliseconds"], found["messages"], found["undone"]) == (140.0, 7, ["payment", "stock"])
    assert found["timeline"] == TIMELINE


def test_timeline_says_what_is_waited_for(terminal: Terminal) -> None:
    """Who is asked, for what, and until when; a coordinator that is unavailable is named."""
    order = ORDER | {"status": "STOCK_RESERVED", "reason": None}
    waits = {"step": "ChargePayment", "service": "payment", "since": "2026-01-01T10:00:00Z", "deadline": None}
    timeline = {"entries": TIMELINE["entries"][:2], "waiting_for": [waits], "incomplete": ["orchestrator"]}
    routes = {f"GET order/orders/{ORDER_ID}": order, f"GET order/orders/{ORDER_ID}/timeline": timeline}
    output = terminal.run("order", "timeline", ORDER_ID, routes=routes).output
    assert "waits for payment to answer ChargePayment" in output
    assert "orchestrator does not answer: its part of the timeline is missing" in output


def test_show_asks_every_service(terminal: Terminal) -> None:
    """A service that knows nothing of the order has done nothing; one that is unavailable is reported."""
    routes = ROUTES | {f"GET shipping/shipments/{ORDER_ID}": problem(503, "Service Unavailable")}
    output = terminal.run("order", "show", ORDER_ID, routes=routes).output
    assert "undone (ch_1, refunded 39.98 EUR)" in output
    assert "unknown (503 Service Unavailable)" in output


def test_last_is_the_newest_order(terminal: Terminal) -> None:
    assert ORDER_ID in terminal.run("order", "show", "last", routes=ROUTES).output
    none = terminal.run("order", "show", "last", routes={"GET order/orders": {"items": [], "next_cursor": None}})
    assert isinstance(none.exception, RuntimeProblem)


def test_an_id_that_is_none_is_not_asked_for(terminal: Terminal) -> None:
    result = terminal.run("order", "show", "42", routes=ROUTES)
    assert isinstance(result.exception, RuntimeProblem)
    assert "is not an order's id" in result.exception.what
    assert terminal.requests == []


def test_list_shows_whole_ids_and_how_to_continue(terminal: Terminal) -> None:
    output = terminal.run("order", "list", "--status", "cancelled", routes=ROUTES).output
    assert ORDER_ID in output
    assert f"--cursor {OTHER_ID}" in output
    assert terminal.requests[0].url.params["status"] == "CANCELLED"


def test_retry_says_who_and_why(terminal: Terminal) -> None:
    """`--by` is the user where it isn't given; `--why` must be."""
    assert terminal.run("order", "retry", ORDER_ID, routes=ROUTES).exit_code == 2
    terminal.run("order", "retry", ORDER_ID, "--by", "ada", "--why", "carrier is back", routes=ROUTES)
    assert json.loads(terminal.requests[-1].content) == {"by": "ada", "why": "carrier is back"}


def bulk(**more: Any) -> dict[str, Any]:
    return {"retried": 100, "skipped": 0, "matching": None, "more": True, "cursor": OTHER_ID} | more


def test_retry_of_all_goes_by_pages(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 at a time, not faster than that each second; each page with a key of its own, after the cursor of the one
    before. No request an order."""
    pauses: list[float] = []
    monkeypatch.setattr("cli.commands.retrying.time.sleep", pauses.append)
    answers = iter([bulk(matching=203), bulk(skipped=2, retried=98), bulk(retried=3, more=False)])
    routes = {"POST order/orders/retry": lambda request: next(answers)}
    result = terminal.run(
        "order", "retry", "--all", "--workflow", "hybrid", "--reason", "no answer", "--older-than", "60",
        "--why", "back", "--by", "ada", routes=routes,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "201 orders continue" in result.output
    assert "2 were busy" in result.output
    bodies = [json.loads(request.content) for request in terminal.requests]
    wanted = {"by": "ada", "why": "back", "workflow": "hybrid", "reason": "no answer", "older_than": 60.0, "limit": 100}
    assert bodies == [wanted, wanted | {"cursor": OTHER_ID}, wanted | {"cursor": OTHER_ID}]
    assert len({request.headers["Idempotency-Key"] for request in terminal.requests}) == 3
    assert len(pauses) == 2
    assert all(0 < pause <= 1 for pause in pauses)


def test_retry_of_all_as_json(terminal: Terminal) -> None:
    routes = {"POST order/orders/retry": bulk(retried=0, matching=0, more=False, cursor=None)}
    result = terminal.run("order", "retry", "--all", "--why", "back", "--json", routes=routes)
    assert json.loads(result.output) == {"retried": 0, "skipped": 0}
    assert "No order" in terminal.run("order", "retry", "--all", "--why", "back", routes=routes).output


@pytest.mark.parametrize("arguments", [(), ("last", "--all"), ("last", "--reason", "x"), ("--workflow", "hybrid")])
def test_retry_must_say_which_orders(terminal: Terminal, arguments: tuple[str, ...]) -> None:
    result = terminal.run("order", "retry", *arguments, "--why", "back", routes=ROUTES)
    assert isinstance(result.exception, RuntimeProblem)
    assert terminal.requests == []


@pytest.mark.parametrize("command", [("show",), ("timeline",), ("cancel",), ("retry", "--why", "x"), ("trace",)])
def test_everything_about_an_order_is_there_as_json(terminal: Terminal, command: tuple[str, ...]) -> None:
    result = terminal.run("order", *command, ORDER_ID, "--json", routes=ROUTES)
    assert result.exit_code == 0, result.output
    assert isinstance(json.loads(result.output), dict)


def test_stuck_sagas_are_asked_for_as_an_operator(terminal: Terminal) -> None:
    saga = {
        "order_id": ORDER_ID, "state": "COMPENSATING", "needs_attention": True, "workflow": "orchestration",
        "waiting_for": None, "updated_at": ORDER["updated_at"], "reason": "no answer", "version": 3, "facts": [],
        "created_at": ORDER["created_at"], "log": TIMELINE["entries"],
    }  # fmt: skip
    routes = {"GET orchestrator/sagas": {"items": [saga], "next_cursor": None}}
    routes[f"GET orchestrator/sagas/{ORDER_ID}"] = saga
    output = terminal.run("saga", "list", "--stuck", routes=routes).output
    assert "NEEDS_ATTENTION" in output
    assert ORDER_ID in output
    assert terminal.requests[0].url.params["stuck"] == "true"
    assert "OrderCancelled" in terminal.run("saga", "show", ORDER_ID, routes=routes).output
