"""FAULTS row 18: an undo that is never answered needs an operator, who is called until one is heard."""

from __future__ import annotations

import pytest

from orderflow.contracts import (
    Message,
    OrderNeedsAttention,
    OrderRetryRequested,
    ShipmentScheduled,
    StockReleased,
    name_of,
)
from orderflow.saga import Step
from tests.support.oracle import check
from tests.support.sagas import (
    Kind,
    an_operator_ends,
    coordinated_elsewhere,
    every_kind,
    every_step,
    losing,
    place,
    retry,
    wait,
)
from tests.support.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.row(18)]


@every_kind
@every_step
def test_an_undo_that_is_never_answered(world: World, step: Step, kind: Kind) -> None:
    """Sent twenty times more; then the order needs an operator, and stays so until one retries."""
    with world.rules.calmed():  # a question that comes twice is answered twice
        never_answered(world, step, kind)


def never_answered(world: World, step: Step, kind: Kind) -> None:
    with losing(world, ShipmentScheduled, step.undone) as lost:
        order_id = place(world, kind)
        world.settle()
        assert world.cancel(order_id) == 202
        world.settle()
        while world.status(order_id) == "CANCELLING":
            assert lost[name_of(step.undone)] <= 21
            wait(world, 10)
        assert world.status(order_id) == "NEEDS_ATTENTION"
        assert lost[name_of(step.undone)] == 21
    check(world.urls, attention=[order_id])
    wait(world, 10)
    assert world.status(order_id) == "NEEDS_ATTENTION", "an operator is waited for"
    an_operator_ends(world, order_id)
    assert retry(world, order_id) == 409
    assert world.parked() == []


@coordinated_elsewhere
@pytest.mark.parametrize("lost", [OrderRetryRequested, OrderNeedsAttention], ids=name_of)
def test_an_operator_is_called_until_one_is_heard(world: World, lost: type[Message], kind: Kind) -> None:
    """The order and its coordinator disagree about who waits for whom, because what one told the other is lost: the
    order's next reminder is answered by that."""
    with losing(world, StockReleased), losing(world, lost) as losses:
        order_id = place(world, kind, payment_method="pm_card_declined")
        world.settle()
        for turn in range(400):
            wait(world, 10)
            if world.status(order_id) == "NEEDS_ATTENTION" and lost is OrderRetryRequested and not losses.total():
                assert retry(world, order_id) == 202
            if turn >= 100 and losses.total():
                break
        assert losses.total() >= 1
    for _ in range(12):  # a reminder may have been sent a moment ago
        wait(world, 60)
    assert world.status(order_id) == "NEEDS_ATTENTION"
    an_operator_ends(world, order_id)
