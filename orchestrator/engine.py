"""The saga engine: decides from a saga's facts which one message to send next. Pure: no I/O, no clock.

The same set of facts gives the same decision, in whatever order and however often the facts arrived.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from orderflow import contracts as c
from orderflow.contracts import Message, OrderSnapshot, Workflow, name_of
from orderflow.saga import DEADLINE, SHIPMENT, STEP_UNDONE, STEPS, owed, still_owed


class State(StrEnum):
    """Where a saga stands."""

    RUNNING = "RUNNING"
    COMPENSATING = "COMPENSATING"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Move:
    """One move forward: the message to send, and the fact that ends the wait for its answer."""

    send: type[Message]
    until: type[Message]
    service: str


FORWARD: Final[Mapping[Workflow, tuple[Move, ...]]] = {
    Workflow.ORCHESTRATION: (
        *(Move(step.command, step.success, step.service) for step in STEPS),
        Move(c.ConfirmOrder, c.OrderConfirmed, "order"),
    ),
    Workflow.HYBRID: (
        *(Move(step.command, step.success, step.service) for step in STEPS[: STEPS.index(SHIPMENT)]),
        Move(c.OrderPaid, c.OrderConfirmed, SHIPMENT.service),
    ),
}
"""The moves forward, by workflow. In hybrid the last move hands the order over to choreography."""

ASKED: Final = {
    **{name_of(step.command): step.service for step in STEPS},
    **{name_of(step.undo): step.service for step in STEPS},
    name_of(c.OrderPaid): SHIPMENT.service,
    name_of(c.ConfirmOrder): "order",
    name_of(c.CancelOrder): "order",
}
"""The service that has to answer an open message."""

_ARBITER_CANCELS: Final = {name_of(c.OrderCancellationRequested), name_of(c.ConfirmationRejected)}


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from the facts: the saga's state, and the open message. None: there is nothing more to do."""

    state: State
    send: type[Message] | None = None
    service: str = ""


def decide(workflow: Workflow, facts: Collection[str]) -> Decision:
    """The decision for a saga.

    The arbiter's decision is final, unless the arbiter reports that it is cancelling an order that it had already
    ended: then its database was restored from a backup and has forgotten the end.
    """
    cancels = bool(_ARBITER_CANCELS.intersection(facts))
    if name_of(c.OrderCancelled) in facts and not (cancels and still_owed(facts)):
        return Decision(State.CANCELLED)
    if name_of(c.OrderConfirmed) in facts and not cancels:
        return Decision(State.CONFIRMED)
    debts = owed(facts)
    if debts is None:
        move = _next_move(workflow, facts)
        return Decision(State.RUNNING, move.send, move.service)
    if _arbiter_is_to_be_asked(facts):
        # The order may be confirmed: at this moment, or earlier, if this saga was restored from a backup and forgot it.
        return Decision(State.COMPENSATING, c.CancelOrder, "order")
    remaining = still_owed(facts)
    if remaining:
        return Decision(State.COMPENSATING, remaining[-1].undo, remaining[-1].service)
    return Decision(State.COMPENSATING, c.CancelOrder, "order")


def _next_move(workflow: Workflow, facts: Collection[str]) -> Move:
    moves = FORWARD[workflow]
    return next((move for move in moves if name_of(move.until) not in facts), moves[-1])


def _arbiter_is_to_be_asked(facts: Collection[str]) -> bool:
    """Whether only silence, or a compensation that this saga did not ask for, speaks against the order."""
    known = set(facts)
    return bool(known & {DEADLINE, STEP_UNDONE}) and not known & _ARBITER_CANCELS


def last_word(workflow: Workflow, snapshot: OrderSnapshot, facts: Collection[str], reason: str) -> Message:
    """The message that ended a saga, to be resent to an arbiter that has forgotten the end."""
    confirmed = decide(workflow, facts).state is State.CONFIRMED
    return message_for(FORWARD[workflow][-1].send if confirmed else c.CancelOrder, snapshot, facts, reason)


def message_for(send: type[Message], snapshot: OrderSnapshot, facts: Collection[str], reason: str) -> Message:
    """The open message. It carries only what its receiver needs to know about the order."""
    match send:
        case c.ReserveStock:
            return c.ReserveStock(items=snapshot.items)
        case c.ChargePayment:
            return c.ChargePayment(amount=snapshot.total, payment_method=snapshot.payment_method)
        case c.ScheduleShipment:
            return c.ScheduleShipment(items=snapshot.items, address=snapshot.address)
        case c.OrderPaid:
            return c.OrderPaid(order=snapshot)
        case c.CancelOrder:
            return c.CancelOrder(reason=reason, facts=tuple(sorted(facts)))
        case _:
            return send()
