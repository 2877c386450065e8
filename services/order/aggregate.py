"""The order as the arbiter sees it: confirmed or cancelled, once. Pure: no I/O, no clock.

It is a set of facts, which only grows, so that order, repeats and lateness of messages don't matter. Two of them end
it: `OrderConfirmed`, which nothing follows, and `OrderCancelled`, which comes when nothing is owed any more. Who
decides holds the order's row.
Source of the pattern: E. Evans, "Domain-Driven Design", 2003, chapter 6 (aggregates).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from orderflow.contracts import (
    CancelOrder,
    ConfirmationRejected,
    ConfirmOrder,
    EventBus,
    Message,
    OrderAccepted,
    OrderCancellationRequested,
    OrderCancelled,
    OrderConfirmed,
    OrderNeedsAttention,
    PaymentCharged,
    Refusal,
    ShipmentScheduled,
    StockReserved,
    Workflow,
    name_of,
)
from orderflow.routing import COORDINATOR, MACHINE
from orderflow.saga import DEADLINE, PAYMENT, SHIPMENT, STEP_UNDONE, STEPS, STOCK, fact_of, owed, still_owed
from services.order.domain import Progress, Status, status

KNOWN_FACTS: Final = frozenset(
    {DEADLINE, STEP_UNDONE, name_of(OrderCancellationRequested)}
    | {name_of(m) for step in STEPS for m in (step.success, step.refusal, step.undone)}
)
"""Facts that another coordinator may tell the arbiter."""

FORWARD: Final = {
    Status.PLACED: STOCK.service,
    Status.STOCK_RESERVED: PAYMENT.service,
    Status.PAID: SHIPMENT.service,
}
"""Who has to answer, in choreography, by the order's status, where nothing has gone wrong."""


@dataclass(slots=True)
class Order:
    """An order as the arbiter sees it. `sends` counts what was sent again since the last progress; `waited` is the
    seconds since then (or since its question was sent, if that was later), by the database's clock, and `age` those
    since it was placed."""

    id: str
    workflow: Workflow
    event_bus: EventBus
    traceparent: str | None
    placed_id: str
    cancel_id: str
    facts: set[str]
    reason: str
    answered: bool
    attention: bool
    sends: int
    waited: float
    age: float
    next_in: float | None = field(default=None)
    """Seconds until its owner looks again; None leaves it as it is."""
    progressed: bool = field(default=False)

    @property
    def confirmed(self) -> bool:
        return name_of(OrderConfirmed) in self.facts

    @property
    def cancelled(self) -> bool:
        return name_of(OrderCancelled) in self.facts

    @property
    def cancelling(self) -> bool:
        """Whether it can't be confirmed any more."""
        return not self.confirmed and owed(self.facts) is not None

    @property
    def open(self) -> bool:
        return not (self.confirmed or self.cancelled)

    @property
    def is_ours(self) -> bool:
        """Whether the order service coordinates it."""
        return COORDINATOR[self.workflow] == "order"

    @property
    def runs_by_machine(self) -> bool:
        """Whether a state machine coordinates it: that resends by itself, and can only be lost as a whole."""
        return COORDINATOR[self.workflow] == MACHINE

    @property
    def waits_for(self) -> str | None:
        """The service whose answer takes an order of ours forward."""
        return FORWARD.get(self.status) if self.is_ours else None

    @property
    def status(self) -> Status:
        return status(
            Progress(
                reserved=name_of(StockReserved) in self.facts,
                paid=name_of(PaymentCharged) in self.facts,
                confirmed=self.confirmed,
                cancelling=self.cancelling,
                cancelled=self.cancelled,
                needs_attention=self.attention,
            )
        )

    def apply(self, message: Message) -> list[Message]:
        """What is heard of the order becomes part of it; what follows from it now."""
        # What a state machine sends does not say that anybody watches it; only OrderAccepted does.
        self.answered |= isinstance(message, OrderAccepted) or not (self.is_ours or self.runs_by_machine)
        match message:
            case ConfirmOrder():
                return [self.confirm()]
            case CancelOrder(reason=reason, facts=facts):
                answer = self.cancel(reason, facts)
                return [answer] if answer else []
            case OrderNeedsAttention(reason=reason):
                self.attention, self.reason = self.open, self.reason or reason
                return []
            case OrderAccepted():
                return []
        self.facts.add(fact_of(message))
        if isinstance(message, Refusal) and self.cancelling:
            self.reason = self.reason or message.reason
        # The reaction to ShipmentScheduled is ConfirmOrder, this service's own command.
        answers = [self.confirm()] if isinstance(message, ShipmentScheduled) else []
        return answers + (self.conclude() if self.is_ours else [])

    def confirm(self) -> Message:
        """ConfirmOrder: confirms what is not cancelling."""
        if self.confirmed:
            return OrderConfirmed()
        if self.cancelling or self.cancelled:
            return ConfirmationRejected(reason="the order is being cancelled")
        self.facts.add(name_of(OrderConfirmed))
        self.attention, self.reason = False, ""
        return OrderConfirmed()

    def cancel(self, reason: str, facts: Sequence[str]) -> Message | None:
        """CancelOrder: CANCELLED if nothing is owed any more, else cancelling; never once it is confirmed.

        No answer to who has compensated all that it knows of while a step is owed that it doesn't know: it is of an
        older version, and would go round. A newer one will ask, or an operator."""
        if self.confirmed:
            return OrderConfirmed()
        if self.cancelled:
            return OrderCancelled(reason=self.reason)
        self.reason = self.reason or reason
        if not facts:
            self.facts.add(name_of(OrderCancellationRequested))
        self.facts |= set(facts) & KNOWN_FACTS
        if not self.cancelling or still_owed(self.facts):
            self.facts.add(name_of(OrderCancellationRequested))
            if name_of(OrderCancellationRequested) in facts:
                return None
            return OrderCancellationRequested(reason=self.reason)
        return self._cancelled()

    def conclude(self) -> list[Message]:
        """CancelOrder to itself, as soon as nothing is owed any more."""
        if self.open and self.cancelling and not still_owed(self.facts):
            return [self._cancelled()]
        return []

    def request_cancellation(self, reason: str) -> Message | None:
        """Makes an open order cancelling; the message that says so, or None if it was so by request already."""
        if name_of(OrderCancellationRequested) in self.facts:
            return None
        self.facts.add(name_of(OrderCancellationRequested))
        self.reason = self.reason or reason
        self.answered = False  # by a coordinator: it has to answer this, too
        return OrderCancellationRequested(reason=self.reason)

    def _cancelled(self) -> Message:
        self.facts.add(name_of(OrderCancelled))
        self.attention = False
        return OrderCancelled(reason=self.reason)
