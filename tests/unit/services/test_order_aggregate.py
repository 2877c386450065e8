"""The arbiter: an order is confirmed or cancelled, once, whatever comes, in whatever order and however often."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow import contracts as c
from orderflow.contracts import EventBus, Message, Money, Workflow, name_of
from orderflow.routing import TABLE
from orderflow.saga import STEPS, owed, still_owed
from services.order.aggregate import Order
from services.order.domain import Status

RESERVED = c.StockReserved(items=())
PAID = c.PaymentCharged(payment_id="p-1", amount=Money(amount=1, currency="EUR"))
SHIPPED = c.ShipmentScheduled(shipment_id="s-1")
HEARD: Sequence[Message] = (
    RESERVED, c.StockRejected(reason="sold out"), c.StockReleased(),
    PAID, c.PaymentDeclined(reason="no money"), c.PaymentRefunded(),
    SHIPPED, c.ShipmentRejected(reason="no such place"), c.ShipmentCancelled(),
    c.StockRejected(reason=c.UNDONE), c.ConfirmOrder(), c.CancelOrder(reason="asked"),
    c.CancelOrder(reason="declined", facts=("StockReserved", "PaymentDeclined")),
    c.CancelOrder(facts=("OrderCancellationRequested", "StockReleased", "PaymentRefunded", "ShipmentCancelled")),
    c.OrderAccepted(), c.OrderNeedsAttention(reason="an undo got no answer"),
)  # fmt: skip


def order(workflow: Workflow = Workflow.CHOREOGRAPHY, *heard: Message) -> Order:
    made = Order("o-1", workflow, EventBus.SNS, None, "p-1", "c-1", set(), "", False, False, 0, 0.0, 0.0)
    for message in heard:
        made.apply(message)
    return made


@given(workflow=st.sampled_from(list(TABLE)), heard=st.lists(st.sampled_from(HEARD), max_size=30))
def test_it_is_decided_once(workflow: Workflow, heard: list[Message]) -> None:
    """Never both; a decision is final, and every later answer tells it; facts only grow."""
    found = order(workflow)
    for message in heard:
        before, decided = set(found.facts), None if found.open else found.status
        answers = {name_of(answer) for answer in found.apply(message)}
        assert before <= found.facts
        assert not (found.confirmed and found.cancelled)
        if decided is Status.CONFIRMED:
            assert found.confirmed
            assert answers <= {"OrderConfirmed"}
        if decided is Status.CANCELLED:
            assert found.cancelled
            assert answers <= {"OrderCancelled", "ConfirmationRejected"}
        assert found.open or not found.attention


@given(heard=st.lists(st.sampled_from(HEARD), max_size=30))
def test_ours_is_cancelled_when_nothing_is_owed_and_not_before(heard: list[Message]) -> None:
    found = order(Workflow.CHOREOGRAPHY)
    for message in heard:
        decided = not found.open
        found.apply(message)
        if found.cancelled and not decided:
            assert owed(found.facts) is not None
            assert not still_owed(found.facts)


def test_the_good_way() -> None:
    found = order()
    assert (found.status, found.waits_for) == (Status.PLACED, "inventory")
    assert found.apply(RESERVED) == []
    assert (found.status, found.waits_for) == (Status.STOCK_RESERVED, "payment")
    assert found.apply(PAID) == []
    assert (found.status, found.waits_for) == (Status.PAID, "shipping")
    assert found.apply(SHIPPED) == [c.OrderConfirmed()]
    assert (found.status, found.waits_for, found.open) == (Status.CONFIRMED, None, False)


def test_a_refusal_is_compensated_before_it_is_cancelled() -> None:
    found = order(Workflow.CHOREOGRAPHY, RESERVED)
    assert found.apply(c.PaymentDeclined(reason="no money")) == []
    assert (found.status, found.reason) == (Status.CANCELLING, "no money")
    assert found.apply(c.StockReleased()) == [c.OrderCancelled(reason="no money")]


def test_a_cancellation_is_requested_once() -> None:
    found = order(Workflow.CHOREOGRAPHY, RESERVED)
    assert found.request_cancellation("changed my mind") == c.OrderCancellationRequested(reason="changed my mind")
    assert found.request_cancellation("once more") is None
    assert found.apply(c.ConfirmOrder()) == [c.ConfirmationRejected(reason="the order is being cancelled")]
    for step in STEPS[:-1]:
        assert found.apply(step.undone.model_construct()) == []
    assert found.apply(c.ShipmentCancelled()) == [c.OrderCancelled(reason="changed my mind")]


@pytest.mark.parametrize("workflow", [w for w in TABLE if w is not Workflow.CHOREOGRAPHY])
def test_another_coordinator_asks_to_cancel(workflow: Workflow) -> None:
    """With what it knows: CANCELLED once nothing is owed by these facts and the order's own; else it has to go on."""
    found = order(workflow, RESERVED)
    [answer] = found.apply(c.CancelOrder(reason="declined", facts=("PaymentDeclined",)))
    assert answer == c.OrderCancellationRequested(reason="declined")
    facts = ("PaymentDeclined", "StockReleased", "PaymentRefunded", "ShipmentCancelled")
    assert found.apply(c.CancelOrder(reason="declined", facts=facts)) == [c.OrderCancelled(reason="declined")]


def test_a_coordinator_of_an_older_version_gets_no_answer() -> None:
    """It has compensated all that it knows of while a step is owed: it would go round."""
    found = order(Workflow.ORCHESTRATION, RESERVED)
    assert found.apply(c.CancelOrder(facts=("OrderCancellationRequested", "StockReleased"))) == []
    assert found.status is Status.CANCELLING


def test_attention_hides_how_far_it_got_and_ends_with_the_decision() -> None:
    found = order(Workflow.ORCHESTRATION, RESERVED, c.OrderNeedsAttention(reason="no answer"))
    assert (found.status, found.reason) == (Status.NEEDS_ATTENTION, "no answer")
    found.apply(c.ConfirmOrder())
    assert (found.status, found.reason) == (Status.CONFIRMED, "")
    found.apply(c.OrderNeedsAttention(reason="too late"))
    assert found.status is Status.CONFIRMED


@pytest.mark.parametrize(
    ("workflow", "message", "answered"),
    [
        (Workflow.CHOREOGRAPHY, RESERVED, False),
        (Workflow.ORCHESTRATION, c.ConfirmOrder(), True),
        (Workflow.STEP_FUNCTIONS, c.ConfirmOrder(), False),
        (Workflow.STEP_FUNCTIONS, c.OrderAccepted(), True),
    ],
)
def test_who_has_heard_of_it(workflow: Workflow, message: Message, answered: bool) -> None:
    """What a state machine asks says nothing of whether anybody watches it."""
    assert order(workflow, message).answered == answered
