"""What an owner does about an order that has waited for an answer."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import pytest

from orderflow.saga.next_action import Action, next_action, resend
from orderflow.saga.retry_budget import RetryBudget
from orderflow.settings import Settings

SETTINGS = Settings(aws_endpoint_url="http://memory", undo_after=60, undo_attempts=20)


@dataclass
class Order:
    waited: float = 0.0
    sends: int = 0
    next_in: float | None = None
    progressed: bool = False


def action(order: Order, *, compensating: bool = False, resumed: float = inf, lost_after: float = 0.0) -> Action:
    return next_action(order, SETTINGS, compensating=compensating, lag=2, resumed=resumed, lost_after=lost_after)


@pytest.mark.parametrize(
    ("waited", "resumed", "lost_after", "expected"),
    [
        (10, inf, 0, Action.RESEND),
        (59.9, inf, 0, Action.RESEND),
        (60, inf, 0, Action.COMPENSATE),
        (60, inf, 62, Action.COMPENSATE),  # as of the watermark: two more seconds have passed since
        (60, inf, 62.1, Action.WAIT),  # newer questions are not answered either: it waits behind a backlog
        (10, inf, 1000, Action.RESEND),
        (10, 9, 0, Action.RESTART),  # the owner was down meanwhile
        (1000, 9, 1000, Action.RESTART),  # even past its deadline
        (60, 60, 0, Action.COMPENSATE),  # asked since the owner is back
    ],
)
def test_on_the_way_forward(waited: float, resumed: float, lost_after: float, expected: Action) -> None:
    """Resend, then compensate at the deadline; after downtime resend once before, whatever the deadline says."""
    assert action(Order(waited, sends=99), resumed=resumed, lost_after=lost_after) is expected


@pytest.mark.parametrize(("sends", "expected"), [(0, Action.RESEND), (19, Action.RESEND), (20, Action.CALL_OPERATOR)])
def test_a_compensation_has_attempts_and_no_deadline(sends: int, expected: Action) -> None:
    order = Order(waited=1000, sends=sends)
    assert action(order, compensating=True) is expected
    assert action(order, compensating=True, resumed=9, lost_after=5000) is expected


def test_a_resend_is_counted() -> None:
    order = Order(waited=25, sends=1)
    assert resend(order, Action.RESEND, RetryBudget("unit", 1), lambda: 10 * order.sends)
    assert order == Order(waited=25, sends=2, next_in=20)


def test_after_downtime_the_clock_starts_anew() -> None:
    order = Order(waited=1000, sends=3)
    assert resend(order, Action.RESTART, RetryBudget("unit", 1), lambda: order.waited + 10)
    assert order == Order(waited=0, sends=1, next_in=10, progressed=True)


@pytest.mark.parametrize("what", [Action.RESEND, Action.RESTART])
def test_without_budget_it_is_looked_after_later(what: Action) -> None:
    """Nothing else changes: after downtime, it is still to be asked once."""
    order = Order(waited=25, sends=1)
    assert not resend(order, what, RetryBudget("unit", 0), lambda: 15)
    assert order == Order(waited=25, sends=1, next_in=15)


def test_what_is_free_takes_nothing_off_the_budget() -> None:
    budget = RetryBudget("unit", 1)
    assert resend(Order(), Action.RESEND, budget, lambda: 10, free=True)
    assert budget.take()
