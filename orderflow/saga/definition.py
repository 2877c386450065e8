"""The saga of an order as data, with the rules that follow from it. Pure: no I/O, no clock.

Every coordinator (the order service in choreography, the orchestrator, the state machine) uses this one definition.
Progress is a set of *facts*, so it doesn't matter if messages are reordered, repeated or late.
Source of the pattern: H. Garcia-Molina and K. Salem, "Sagas", SIGMOD 1987.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from orderflow import contracts as c


@dataclass(frozen=True, slots=True)
class Step:
    """A step that a service does, and its compensation. All fields except `name` and `service` are messages."""

    name: str
    service: str
    command: type[c.Command]
    success: type[c.Event]
    refusal: type[c.Refusal]
    undo: type[c.Command]
    undone: type[c.Event]


STOCK: Final = Step(
    "stock", "inventory", c.ReserveStock, c.StockReserved, c.StockRejected, c.ReleaseStock, c.StockReleased
)
PAYMENT: Final = Step(
    "payment", "payment", c.ChargePayment, c.PaymentCharged, c.PaymentDeclined, c.RefundPayment, c.PaymentRefunded
)
SHIPMENT: Final = Step(
    "shipment",
    "shipping",
    c.ScheduleShipment,
    c.ShipmentScheduled,
    c.ShipmentRejected,
    c.CancelShipment,
    c.ShipmentCancelled,
)
STEPS: Final = (STOCK, PAYMENT, SHIPMENT)
"""In the order in which they are done; they are compensated in reverse."""

DEADLINE: Final = "DeadlineExceeded"
NEEDS_ATTENTION: Final = "NeedsAttention"
"""The error of an execution that gave up on a compensation; an operator's retry starts another."""
STEP_UNDONE: Final = "StepUndone"
"""A service refused because its step had been compensated: this order is being compensated."""

_OWES_ALL: Final = frozenset(
    {DEADLINE, STEP_UNDONE, c.name_of(c.OrderCancellationRequested), c.name_of(c.ConfirmationRejected)}
)


def fact_of(message: c.Message) -> str:
    """The fact that a message establishes: its name, or `StepUndone` for a refusal of a compensated step."""
    if (
        isinstance(message, c.Refusal)
        and message.reason == c.UNDONE
        and not isinstance(message, c.ConfirmationRejected)
    ):
        return STEP_UNDONE
    return c.name_of(message)


def owed(facts: Collection[str]) -> tuple[Step, ...] | None:
    """The steps whose compensation must be confirmed before the order is CANCELLED, in the order they are done; None
    while nothing has gone wrong. It only grows as facts are added."""
    known = set(facts)
    if known & _OWES_ALL:
        return STEPS
    refused = [i for i, step in enumerate(STEPS) if c.name_of(step.refusal) in known]
    if not refused:
        return None
    # Steps before the refused one, and any other that is known to be done: the refused step may have been added later.
    return tuple(s for i, s in enumerate(STEPS) if i < max(refused) or c.name_of(s.success) in known)


def undone(facts: Collection[str]) -> tuple[Step, ...]:
    """The steps whose compensation has been confirmed."""
    return tuple(step for step in STEPS if c.name_of(step.undone) in facts)


def still_owed(facts: Collection[str]) -> tuple[Step, ...]:
    """The steps that are owed a compensation which is not yet confirmed."""
    done = set(undone(facts))
    return tuple(step for step in owed(facts) or () if step not in done)
