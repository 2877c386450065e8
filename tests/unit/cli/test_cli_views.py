"""Drawings, counts and checks behind the commands: what is made of what the services say."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from rich.console import Console

from cli.commands.order_logs import lines_of
from cli.views.common import money
from cli.views.compare import show
from client import checks, cost
from client.compare import Compared
from client.cost import Cost
from client.timeline import timeline_of
from diagrams.lanes import Arrow, Lanes
from orderflow.contracts import Workflow
from orderflow.routing import SERVICES, TABLE, variants
from tests.support.cli import CONFIRMED, MOVED, ORDER, ORDER_ID, TIMELINE, answer, api, entry, problem

# Timelines


def test_a_message_that_is_resent_counts_once() -> None:
    """By its id, as in the footnote of the demo."""
    entries = [
        entry(0, "order", "OrderPlaced", number=1),
        entry(9, "order", "OrderPlaced", resend=1, number=1),
    ]
    assert timeline_of(dict(ORDER), {"entries": entries, "waiting_for": None}).messages == 1


def test_a_timeline_knows_its_end_and_what_was_compensated() -> None:
    assert MOVED.took == 140
    assert MOVED.undone == ("payment", "stock")
    assert MOVED.moments[1].receivers == ("payment", "order")
    assert timeline_of(dict(ORDER), {"entries": TIMELINE["entries"][:3], "waiting_for": None}).took is None


# Lanes


def test_arrows_point_at_every_receiver() -> None:
    """Both ways, with the label on the line; a receiver that does nothing has a hollow head."""
    lanes = Lanes(("order", "inventory", "payment"), 70, margin=2)
    line = lanes.draw(Arrow("inventory", ("payment", "order"), "StockReserved", "", noted=("order",))).plain
    assert line.index("◁") < line.index("●") < line.index("StockReserved") < line.index("▶")


@pytest.mark.parametrize("width", [60, 80, 100, 140, 300])
def test_every_label_can_be_read_at_every_width(width: int) -> None:
    """Where it doesn't fit onto its line it stands beside it."""
    names = ("order", "orchestrator", "inventory", "payment", "shipping")
    lanes = Lanes(names, width)
    for sender in names:
        for receiver in names:
            for label in ("OrderPaid", "OrderCancellationRequested"):
                for heavy in (False, True):
                    assert label in lanes.draw(Arrow(sender, (receiver,), label, "", heavy)).plain


@pytest.mark.parametrize("width", [60, 100, 140])
def test_a_note_can_be_read_in_any_lane(width: int) -> None:
    """Also one of somebody who has no lane, and a long one in the last."""
    lanes = Lanes(("order", "orchestrator", "shipping"), width, margin=2)
    for service in ("order", "shipping", "guardian"):
        text = "◦ OrderNeedsAttention (no answer)"
        assert text in lanes.note(service, text, "1 ms").plain


def test_an_unknown_sender_is_named() -> None:
    assert "fraud: CheckFraud" in Lanes(("order",), 80).draw(Arrow("fraud", (), "CheckFraud", "")).plain


# Comparison


def test_a_step_has_the_messages_and_the_time_that_led_to_it() -> None:
    """Under an orchestrator the command is part of it."""
    entries = [
        entry(0, "order", "OrderPlaced"),
        entry(10, "orchestrator", "ReserveStock", "command"),
        entry(45, "inventory", "StockRejected", note="none left"),
        entry(45, "orchestrator", "CancelOrder", "command"),
        entry(60, "order", "OrderCancelled"),
    ]
    moved = timeline_of(dict(ORDER) | {"workflow": "orchestration"}, {"entries": entries, "waiting_for": None})
    compared = Compared("orchestration", "sns", moved)
    steps = {name: (round(s.ms), [m.type for m in s.moments]) for name, s in compared.segments.items()}
    assert steps == {
        "order: placed": (0, ["OrderPlaced"]),
        "stock: refused": (45, ["ReserveStock", "StockRejected"]),
        "order: decided": (15, ["CancelOrder", "OrderCancelled"]),
    }
    assert compared.commands == 2


@pytest.mark.parametrize("width", [60, 100, 140])
def test_columns_that_do_not_fit_come_below(width: int) -> None:
    """No column is lost, and nothing is wider than the terminal."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        show(console, [Compared("choreography", bus, MOVED) for bus in ("sns", "eventbridge", "sns", "sns")])
    text = capture.get()
    assert text.count("ShipmentRejected") == 4
    assert max(len(line) for line in text.splitlines()) <= width


def test_only_what_differs_is_a_variant() -> None:
    """A workflow without events needs no second bus."""
    assert ("choreography", "eventbridge") in variants()
    assert [v for v in variants() if v[0] == "orchestration"] == [("orchestration", "sns")]
    assert variants("choreography", "eventbridge") == [("choreography", "eventbridge")]
    assert {w for w, _ in variants()} == {w.value for w in TABLE}


# Cost


METRICS = """# TYPE orderflow_aws_calls_total counter
orderflow_aws_calls_total{operation="PublishBatch",service="sns"} 7.0
orderflow_aws_calls_total{operation="ReceiveMessage",service="sqs"} 90.0
orderflow_aws_calls_total{operation="GetQueueUrl",service="sqs"} 3.0
orderflow_aws_calls_total{operation="GetExecutionHistory",service="stepfunctions"} 40.0
# TYPE orderflow_batch_size histogram
orderflow_batch_size_bucket{le="+Inf"} 5.0
orderflow_batch_size_count 5.0
orderflow_batch_size_sum 9.0
# TYPE orderflow_messages_handled_total counter
orderflow_messages_handled_total{type="OrderPlaced",verdict="done"} 9.0
"""


def test_cost_counts_receives_that_brought_something() -> None:
    """Empty long polls and the look for the marker are nobody's order; all services are added up."""
    found = cost.read(api(lambda request: httpx.Response(200, text=METRICS)))
    assert found.calls == {"PublishBatch": 35, "ReceiveMessage": 25}
    assert found.deliveries == 45
    assert found.since(Cost({"PublishBatch": 30, "ReceiveMessage": 25}, 40)) == Cost({"PublishBatch": 5}, 5)
    assert found.total == 60
    assert len(SERVICES) == 5


# Promises


def broken(
    routes: dict[str, Any], moved: Any = MOVED, expected: str = "CANCELLED", stocks: Any = None, owed: Any = ()
) -> list[str]:
    return checks.broken(api(answer(routes)), moved, {"BOOK-1": 2}, expected, owed, stocks)


def ledger(*kinds: str, amount: int = 3998) -> Any:
    return {"items": [{"kind": kind, "amount": {"amount": amount, "currency": "EUR"}} for kind in kinds]}


def books(paid: Any, shipped: Any, reservation: Any = None) -> dict[str, Any]:
    routes = {"GET payment/simulator/ledger": paid, "GET shipping/simulator/ledger": shipped}
    return routes | ({f"GET inventory/reservations/{ORDER_ID}": reservation} if reservation else {})


HELD = {"state": "reserved", "items": [{"sku": "BOOK-1", "quantity": 2}]}
GOOD = books(ledger("charge"), ledger("shipment"), HELD)


def test_a_cancelled_order_leaves_nothing_behind() -> None:
    assert broken(books(ledger("refund", "charge"), ledger())) == []
    assert broken(books(ledger(), ledger())) == []
    assert broken(books(ledger("charge"), ledger()))
    assert broken(books(ledger("charge", "charge", "refund", "refund"), ledger()))
    assert broken(books(ledger(), ledger("shipment")))
    assert broken(books(ledger(), ledger(), HELD)) == ["stock is still reserved"]


def test_a_confirmed_order_is_charged_and_shipped_once() -> None:
    assert broken(GOOD, CONFIRMED, "CONFIRMED") == []
    for paid, shipped, held in (
        (ledger(), ledger("shipment"), HELD),
        (ledger("charge", "charge"), ledger("shipment"), HELD),
        (ledger("charge", "refund"), ledger("shipment"), HELD),
        (ledger("charge", amount=1), ledger("shipment"), HELD),
        (ledger("charge"), ledger(), HELD),
        (ledger("charge"), ledger("shipment"), None),
        (ledger("charge"), ledger("shipment"), HELD | {"items": []}),
    ):
        assert broken(books(paid, shipped, held), CONFIRMED, "CONFIRMED")


def test_stock_moves_by_what_was_confirmed_only() -> None:
    before, moved = {"BOOK-1": (10, 0)}, {"BOOK-1": (8, 2)}
    assert broken(GOOD, CONFIRMED, "CONFIRMED", (before, moved)) == []
    assert broken(GOOD, CONFIRMED, "CONFIRMED", (before, before))
    assert broken(books(ledger(), ledger()), stocks=(before, before)) == []
    assert broken(books(ledger(), ledger()), stocks=(before, moved))


def test_an_unexpected_end_and_a_missing_undo_are_told() -> None:
    assert broken(GOOD, CONFIRMED, "CANCELLED") == ["the order is CONFIRMED, not CANCELLED"]
    routes = books(ledger(), ledger(), {"state": "released", "items": []})
    assert broken(routes, owed=["stock"]) == []
    assert broken(routes, owed=["stock", "payment"]) == ["undone: stock; owed: stock, payment"]
    assert broken(routes) == ["undone: stock; owed: nothing"]


def test_a_real_provider_has_no_ledger_to_look_into() -> None:
    """404: then the order, the stock and the timeline are what is checked."""
    gone = problem(404, "Not Found")
    assert broken(books(gone, gone)) == []


# Logs


def test_one_orders_lines_come_in_the_order_of_time() -> None:
    """From all services; what names another order, isn't JSON, or is half written is left out."""

    def line(at: int, **more: Any) -> str:
        return json.dumps({"timestamp": f"2026-01-01T10:00:0{at}Z", "event": "x", **more})

    texts = {
        "payment": "\n".join([line(3, order_id="id-1"), line(1, trace_id="tr-1"), line(2, order_id="id-2")]),
        "order": "\n".join([line(2, order_ids=["id-1", "id-2"]), "booting id-1", '{"order_id": "id-1"']),
    }
    assert [(x.part, x.at[-3:]) for x in lines_of(texts, ["id-1", "tr-1"])] == [
        ("payment", "01Z"), ("order", "02Z"), ("payment", "03Z"),
    ]  # fmt: skip


def test_money() -> None:
    assert money({"amount": 5, "currency": "EUR"}) == "0.05 EUR"
    assert money(None) == ""


def test_every_workflow_has_a_name_and_a_bus() -> None:
    assert {Workflow(w) for w, _ in variants(event_bus="sns")} == set(TABLE)
