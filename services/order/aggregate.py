"""The order as the arbiter sees it: it is confirmed or cancelled, exactly once. Pure: no I/O, no clock.

An order is a set of facts that only grows. Therefore messages may arrive in any order, late or more than once. Two
facts end an order: `OrderConfirmed`, which nothing follows, and `OrderCancelled`, which is added when no compensation
is owed any more. Whoever decides holds the lock of the order's row.
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
"""The facts that another coordinator may report to the arbiter."""

FORWARD: Final = {
    Status.PLACED: STOCK.service,
    Status.STOCK_RESERVED: PAYMENT.service,
    Status.PAID: SHIPMENT.service,
}
"""In choreography: the service whose answer comes next, by the order's status, as long as nothing has gone wrong."""


@dataclass(slots=True)
class Order:
    """An order as the arbiter sees it.

    `sends` counts the resends since the last progress. `waited` is the time in seconds since the last progress, or
    since the open question was sent if that was later. `age` is the time in seconds since the order was placed. Both
    are by the database's clock.
    """

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
    """Seconds until its owner looks at it again; None leaves that time unchanged."""
    progressed: bool = field(default=False)

    @property
    def confirmed(self) -> bool:
        return name_of(OrderConfirmed) in self.facts

    @property
    def cancelled(self) -> bool:
        return name_of(OrderCancelled) in self.facts

    @property
    def cancelling(self) -> bool:
        """Whether the order is being cancelled, so that it can't be confirmed any more."""
        return not self.confirmed and owed(self.facts) is not None

    @property
    def open(self) -> bool:
        return not (self.confirmed or self.cancelled)

    @property
    def is_ours(self) -> bool:
        """Whether the order service coordinates this order."""
        return COORDINATOR[self.workflow] == "order"

    @property
    def runs_by_machine(self) -> bool:
        """Whether a state machine coordinates this order. Its execution resends by itself; it can only be lost as a
        whole."""
        return COORDINATOR[self.workflow] == MACHINE

    @property
    def waits_for(self) -> str | None:
        """The service whose answer takes the order forward, if the order service coordinates it."""
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
        """Adds what a message says to the order's facts; returns the messages that follow from it."""
        # A message from a state machine does not prove that somebody watches its execution; only OrderAccepted does.
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
        # The order service reacts to ShipmentScheduled with its own command, ConfirmOrder.
        answers = [self.confirm()] if isinstance(message, ShipmentScheduled) else []
        return answers + (self.conclude() if self.is_ours else [])

    def confirm(self) -> Message:
        """Handles ConfirmOrder: confirms the order unless it is being cancelled."""
        if self.confirmed:
            return OrderConfirmed()
        if self.cancelling or self.cancelled:
            return ConfirmationRejected(reason="the order is being cancelled")
        self.facts.add(name_of(OrderConfirmed))
        self.attention, self.reason = False, ""
        return OrderConfirmed()

    def cancel(self, reason: str, facts: Sequence[str]) -> Message | None:
        """Handles CancelOrder: the order is CANCELLED if no compensation is owed any more, else it is cancelling. A
        confirmed order stays confirmed.

        There is no answer to a coordinator that has compensated all steps that it knows while another step is owed: it
        is of an older version and would ask for ever. A newer coordinator will ask, or an operator."""
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
        """Cancels the order as soon as no compensation is owed any more, as CancelOrder would."""
        if self.open and self.cancelling and not still_owed(self.facts):
            return [self._cancelled()]
        return []

    def request_cancellation(self, reason: str) -> Message | None:
        """Starts to cancel an open order. Returns the message that says so, or None if a cancellation was requested
        before."""
        if name_of(OrderCancellationRequested) in self.facts:
            return None
        self.facts.add(name_of(OrderCancellationRequested))
        self.reason = self.reason or reason
        self.answered = False  # the coordinator has to answer this message, too
        return OrderCancellationRequested(reason=self.reason)

    def _cancelled(self) -> Message:
        self.facts.add(name_of(OrderCancelled))
        self.attention = False
        return OrderCancelled(reason=self.reason)
