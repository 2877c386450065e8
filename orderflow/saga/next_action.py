"""What an owner does about an order that has waited for an answer: pure, no I/O, no clock.

Both owners decide by it: the order service in choreography, and the orchestrator. A question on the way forward is
resent until its deadline and compensated then; a compensation is resent until its attempts are used up, and the order
needs an operator then. Seconds are those of the database's clock, as of the watermark of the owner's queue.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from orderflow.saga.retry_budget import RetryBudget
from orderflow.settings import Settings


class Action(Enum):
    WAIT = auto()
    """The question waits behind a backlog, so it is not lost: neither resend nor compensate."""
    RESEND = auto()
    RESTART = auto()
    """Resend, with a clock that starts anew: nobody could have answered while the owner was down."""
    COMPENSATE = auto()
    """The deadline is over."""
    CALL_OPERATOR = auto()


class Waiting(Protocol):
    """An order or a saga: what was resent since its last progress, and the seconds since then."""

    waited: float
    sends: int
    next_in: float | None
    progressed: bool


def next_action(
    order: Waiting, settings: Settings, *, compensating: bool, lag: float, resumed: float, lost_after: float
) -> Action:
    """The watermark is `lag` seconds old, and `resumed` seconds before it the owner was back after it had been down.
    `lost_after`: seconds from which an unanswered question is one that got lost (`Answers.least_wait`)."""
    if compensating:
        return Action.CALL_OPERATOR if order.sends >= settings.undo_attempts else Action.RESEND
    if order.waited > resumed:
        return Action.RESTART
    if order.waited < settings.undo_after:
        return Action.RESEND
    return Action.WAIT if order.waited + lag < lost_after else Action.COMPENSATE


def resend(
    order: Waiting, action: Action, budget: RetryBudget, next_look: Callable[[], float], *, free: bool = False
) -> bool:
    """Whether the question may be resent now, out of the budget unless it is `free`; the order counts it then. Sets
    when its owner looks after it again."""
    granted = free or budget.take()
    if granted and action is Action.RESTART:
        order.progressed, order.waited, order.sends = True, 0.0, 0
    order.sends += granted
    order.next_in = next_look()
    return granted
