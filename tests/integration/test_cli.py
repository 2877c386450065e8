"""The command line against a real system, as a person uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from diagrams.model import OUTCOMES, play
from orderflow.contracts import Workflow
from orderflow.routing import TABLE
from tests.support.system import System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ASKS = {
    "success": (), "out-of-stock": ("--sku", "SOLDOUT-1"), "declined": ("-p", "pm_card_declined"),
    "undeliverable": ("--postal-code", "00000"),
}  # fmt: skip
"""The options that make each of the drawn outcomes happen."""


@pytest.fixture(autouse=True)
def _there(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every command of this file uses the tests' own system, which must be consistent afterwards."""
    monkeypatch.setenv("ORDERFLOW_RUNTIME", "embedded")
    monkeypatch.setenv("ORDERFLOW_HOME", str(system.runtime.home.path))
    monkeypatch.setenv("COLUMNS", "140")
    yield
    system.check()


def orderflow(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def as_json(*arguments: str, code: int = 0) -> Any:
    return json.loads(orderflow(*arguments, "--json", code=code).stdout)


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("workflow", TABLE)
def test_an_order_moves_as_its_workflow_is_drawn(workflow: Workflow, outcome: str) -> None:
    """`order place --watch` shows exactly those messages that `workflow show` draws."""
    found = as_json("order", "place", "--watch", "-w", workflow.value, *ASKS[outcome])
    told = {(e["service"], e["type"]) for e in found["timeline"]["entries"] if e["message_id"]}
    drawn = {(t.sender, t.name) for t in play(workflow, outcome)}
    assert told == drawn
    assert found["messages"] == len(drawn)
    assert found["order"]["status"] == ("CONFIRMED" if outcome == "success" else "CANCELLED")


def test_watch_shows_it_move() -> None:
    output = orderflow("order", "place", "--watch").output
    assert "CONFIRMED after" in output
    assert output.index("OrderPlaced") < output.index("StockReserved") < output.index("OrderConfirmed")


def test_place_list_show_and_timeline_tell_of_the_same_order() -> None:
    placed = as_json("order", "place", "--item", "MUG-1:2", "--item", "BOOK-1:1", "--customer", "c-cli")
    assert placed["total"] == {"amount": 4499, "currency": "EUR"}
    orderflow("order", "watch", placed["id"])
    assert placed["id"] in orderflow("order", "list", "--customer", "c-cli").output
    shown = as_json("order", "show", placed["id"])
    assert [shown[part]["state"] for part in ("stock", "payment", "shipment")] == ["reserved", "done", "done"]
    assert as_json("order", "timeline", placed["id"])["order"]["status"] == "CONFIRMED"
    orderflow("order", "show", "last")


def test_a_key_places_an_order_once() -> None:
    first = as_json("order", "place", "--key", "cli-key-1")
    assert as_json("order", "place", "--key", "cli-key-1")["id"] == first["id"]
    orderflow("order", "watch", first["id"])


def test_a_confirmed_order_is_not_cancelled() -> None:
    """It is refused with 409, as a problem that says what to do."""
    order_id = as_json("order", "place", "--watch")["order"]["id"]
    result = orderflow("order", "cancel", order_id, code=1)
    assert "409" in str(result.exception)


def test_compare_places_the_same_order_under_every_workflow() -> None:
    """Each has its own column, with who decides and how many messages it took."""
    found = as_json("order", "place", "--compare")
    assert {one["workflow"] for one in found} == {w.value for w in TABLE}
    assert {one["order"]["status"] for one in found} == {"CONFIRMED"}
    messages = {one["workflow"]: one["messages"] for one in found}
    assert messages["choreography"] < messages["hybrid"] < messages["orchestration"]


def test_demo_checks_every_promise(system: System) -> None:
    """It counts what one order costs: a message is sent, received and deleted."""
    found = as_json("demo", "--scenario", "success", "--scenario", "undeliverable")
    assert found["promises_hold"]
    for run in found["runs"]:
        if run["workflow"] != "step-functions":  # a state machine receives its answers itself
            assert run["disturbed"] or run["messages"] <= run["deliveries"] + 1
        assert run["aws_calls"] > run["messages"]
        assert set(run["undone"]) == ({"stock", "payment"} if run["scenario"] == "undeliverable" else set())


def test_demo_ends_with_one_where_a_promise_is_broken(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's charge for this order would be found in the ledger."""
    monkeypatch.setattr("client.checks._ledger", lambda api, service, order_id: [])
    output = orderflow("demo", "-w", "choreography", "-b", "sns", "--scenario", "success", code=1).output
    assert "0 charge(s) and 0 refund(s) in the provider's ledger" in output
    assert "broke a promise" in output


def test_trace_draws_every_service() -> None:
    """It comes from Jaeger if there is one, otherwise from the timeline, and says so."""
    order_id = as_json("order", "place", "--watch")["order"]["id"]
    found = as_json("order", "trace", order_id)
    names = {bar["service"] for bar in _flat(found["spans"])}
    assert {"order", "inventory", "payment", "shipping"} <= names
    output = orderflow("order", "trace", order_id).output
    assert ("From the timeline instead" in output) == (found["source"] == "timeline")


def test_logs_of_one_order_come_from_all_services(system: System) -> None:
    """They are in order of time, and contain no other order's lines."""
    order_id = as_json("order", "place", "--watch", "-p", "pm_card_timeout")["order"]["id"]
    until(lambda: order_id in system.runtime.logs("payment"))
    lines = [json.loads(line) for line in orderflow("logs", "--order", order_id, "--json").output.splitlines()]
    assert any(line["part"] == "payment" for line in lines)
    assert [line["timestamp"] for line in lines] == sorted(line["timestamp"] for line in lines)


def test_sagas_are_shown_with_their_trail() -> None:
    order_id = as_json("order", "place", "--watch", "-w", "orchestration")["order"]["id"]
    assert order_id in orderflow("saga", "list").output
    saga = as_json("saga", "show", order_id)
    assert saga["state"] == "CONFIRMED"
    assert "ReserveStock" in orderflow("saga", "show", order_id).output
    assert as_json("saga", "list", "--stuck")["items"] == []


def _flat(bars: list[Any]) -> Iterator[Any]:
    for bar in bars:
        yield bar
        yield from _flat(bar["children"])
