"""Single decisions of the saga engine."""

from __future__ import annotations

import pytest

from orchestrator.engine import State, decide, message_for
from orderflow import contracts as c
from orderflow.contracts import Workflow
from orderflow.saga import DEADLINE, STEP_UNDONE
from tests.support.world import request

FORWARD = ("StockReserved", "PaymentCharged", "ShipmentScheduled")
ORCHESTRATION, HYBRID = Workflow.ORCHESTRATION, Workflow.HYBRID


@pytest.mark.parametrize(
    ("workflow", "facts", "state", "send"),
    [
        (ORCHESTRATION, (), State.RUNNING, c.ReserveStock),
        (ORCHESTRATION, FORWARD[:1], State.RUNNING, c.ChargePayment),
        (ORCHESTRATION, FORWARD[:2], State.RUNNING, c.ScheduleShipment),
        (ORCHESTRATION, FORWARD, State.RUNNING, c.ConfirmOrder),
        (ORCHESTRATION, (*FORWARD, "OrderConfirmed"), State.CONFIRMED, None),
        (HYBRID, FORWARD[:2], State.RUNNING, c.OrderPaid),
        (HYBRID, FORWARD, State.RUNNING, c.OrderPaid),
        # Facts out of order change nothing: what is missing is asked for.
        (ORCHESTRATION, ("PaymentCharged",), State.RUNNING, c.ReserveStock),
        # Refusals owe what came before them, in reverse.
        (ORCHESTRATION, ("StockRejected",), State.COMPENSATING, c.CancelOrder),
        (ORCHESTRATION, ("StockReserved", "PaymentDeclined"), State.COMPENSATING, c.ReleaseStock),
        (ORCHESTRATION, (*FORWARD[:2], "ShipmentRejected"), State.COMPENSATING, c.RefundPayment),
        (ORCHESTRATION, (*FORWARD[:2], "ShipmentRejected", "PaymentRefunded"), State.COMPENSATING, c.ReleaseStock),
        (ORCHESTRATION, ("OrderCancellationRequested",), State.COMPENSATING, c.CancelShipment),
        # Where nobody said no, the arbiter is asked before anything is undone.
        (ORCHESTRATION, (DEADLINE,), State.COMPENSATING, c.CancelOrder),
        (ORCHESTRATION, (DEADLINE, "OrderCancellationRequested"), State.COMPENSATING, c.CancelShipment),
        (ORCHESTRATION, (*FORWARD[:1], STEP_UNDONE), State.COMPENSATING, c.CancelOrder),
        (ORCHESTRATION, (*FORWARD, DEADLINE), State.COMPENSATING, c.CancelOrder),
        (ORCHESTRATION, (*FORWARD, DEADLINE, "OrderCancellationRequested"), State.COMPENSATING, c.CancelShipment),
        (ORCHESTRATION, (*FORWARD, "ConfirmationRejected"), State.COMPENSATING, c.CancelShipment),
        (HYBRID, (*FORWARD[:2], DEADLINE), State.COMPENSATING, c.CancelOrder),
        (HYBRID, (*FORWARD[:2], "ShipmentRejected"), State.COMPENSATING, c.RefundPayment),
        (HYBRID, (*FORWARD[:1], DEADLINE), State.COMPENSATING, c.CancelOrder),
        # The arbiter's word is final, whatever else is known.
        (ORCHESTRATION, (*FORWARD, DEADLINE, "OrderConfirmed"), State.CONFIRMED, None),
        (ORCHESTRATION, ("StockRejected", "OrderCancelled"), State.CANCELLED, None),
        # But an arbiter that was restored from a backup may say another.
        (ORCHESTRATION, (*FORWARD, "OrderConfirmed", "ConfirmationRejected"), State.COMPENSATING, c.CancelShipment),
        (HYBRID, (*FORWARD[:2], "OrderConfirmed", "OrderCancellationRequested"), State.COMPENSATING, c.CancelShipment),
        (
            ORCHESTRATION,
            ("StockRejected", "OrderCancelled", "OrderCancellationRequested"),
            State.COMPENSATING,
            c.CancelShipment,
        ),
    ],
)
def test_decisions(workflow: Workflow, facts: tuple[str, ...], state: State, send: object) -> None:
    """The same facts give the same state and the same open message."""
    decision = decide(workflow, facts)
    assert (decision.state, decision.send) == (state, send)
    assert decide(workflow, tuple(reversed(facts))) == decision


def test_commands_carry_only_what_their_service_needs() -> None:
    """No service sees the address or the card but the one that needs it."""
    asked = request()
    snapshot = c.OrderSnapshot(
        items=tuple(c.Item(sku=i.sku, quantity=i.quantity) for i in asked.items),
        total=c.Money(amount=1, currency="EUR"),
        payment_method="pm_card_visa",
        address=c.Address(**asked.shipping_address.model_dump()),
    )
    commands = (c.ReserveStock, c.ChargePayment, c.ScheduleShipment)
    sent = {m: message_for(m, snapshot, (), "").model_dump_json() for m in commands}
    assert "pm_card" not in sent[c.ReserveStock] + sent[c.ScheduleShipment]
    assert "Berlin" not in sent[c.ReserveStock] + sent[c.ChargePayment]
    assert message_for(c.OrderPaid, snapshot, (), "") == c.OrderPaid(order=snapshot)
    assert message_for(c.CancelOrder, snapshot, {"b", "a"}, "late") == c.CancelOrder(reason="late", facts=("a", "b"))
    assert message_for(c.RefundPayment, snapshot, {"a"}, "late") == c.RefundPayment()
