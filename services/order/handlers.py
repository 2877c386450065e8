"""What the order service does with messages: the arbiter's two commands, and outcomes as facts about their orders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from orderflow.contracts import (
    CancelOrder,
    ConfirmationRejected,
    ConfirmOrder,
    DeadLetterSettled,
    Message,
    OrderAccepted,
    OrderCancellationRequested,
    OrderCancelled,
    OrderConfirmed,
    OrderNeedsAttention,
    Refusal,
    ShipmentScheduled,
    kind_of,
    name_of,
)
from orderflow.database import Connection, Cursor, Database
from orderflow.database.holders import Need
from orderflow.errors import Rejected
from orderflow.messaging.application import Incoming, Reply
from orderflow.messaging.outbox import Unit
from orderflow.metrics import Histogram
from orderflow.saga import STEPS, fact_of, still_owed
from orderflow.saga.answers import Answers
from orderflow.saga.audit_log import LogEntry
from orderflow.saga.retry_budget import RetryBudget
from orderflow.settings import Settings
from services.order import coordinator, models
from services.order.models import Order

_HEARD = {m for step in STEPS for m in (step.success, step.refusal, step.undone)} | {
    ConfirmOrder,
    CancelOrder,
    OrderAccepted,
    OrderNeedsAttention,
    DeadLetterSettled,
}

order_seconds: Final = Histogram(
    "order_seconds",
    "From its acceptance to its end, an order",
    (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
    "workflow",
    "status",
)


class Orders:
    """The order service as an application of the kernel: the arbiter, and the record of what is known."""

    service = "order"
    whole_orders = True

    def __init__(self, settings: Settings, budget: RetryBudget, answers: Answers) -> None:
        self._settings = settings
        self._budget = budget
        self._answers = answers

    def accept(self, message: Message) -> Message | None:
        return message if type(message) in _HEARD else None

    def needs(self, database: Database, batch: Sequence[Incoming]) -> Iterable[Need]:
        return [Need(m.order_id, models.ROWS, m.order_id) for m in batch]

    def lock(self, connection: Connection, batch: Sequence[Incoming]) -> Cursor:
        return models.lock(connection, (m.order_id for m in batch))

    def handle(self, unit: Unit, batch: Sequence[Incoming]) -> Sequence[Reply]:
        orders = models.read(unit.locked, (m.order_id for m in batch))
        going_on = [order for order in orders.values() if order.open]
        log: list[LogEntry] = []
        replies: list[Reply] = []
        for incoming in batch:
            order = orders.get(incoming.order_id)
            if isinstance(incoming.message, DeadLetterSettled):
                if order is not None and not incoming.known:
                    log.append(_operator_note(incoming, incoming.message))
                replies.append([])  # about an order that nobody placed, it is of no use to anybody
                continue
            if order is None:
                replies.append(Rejected(f"there is no order {incoming.order_id}"))
                continue
            envelope = incoming.envelope
            before, asked = len(order.facts), coordinator.waits_for(order)
            caused = [incoming.answer(m, self.service) for m in self._apply(order, incoming)]
            if len(order.facts) > before or not incoming.known:
                kind, note = kind_of(envelope.name), _note(incoming.message)
                log.append(
                    LogEntry(order.id, envelope.sender, kind, envelope.name, envelope.id, envelope.causationid, note)
                )
            log += [LogEntry(order.id, self.service, "event", e.name, e.id, envelope.id) for e in caused]
            if len(order.facts) > before:
                # Facts come in any order: one that is ahead says nothing of when its service was asked.
                if (service := envelope.sender) == asked:
                    self._answers.heard(service, order.waited)
                self._budget.came_forward(helped=bool(envelope.resend and order.sends))
                order.waited = 0.0
                coordinator.progressed(order, self._settings)
            replies.append(caused)
        models.save(unit.connection, list(orders.values()))
        models.LOG.write(unit.connection, log)
        for order in going_on:
            if not order.open:
                order_seconds.observe(order.age, order.workflow.value, order.status.value)
        return replies

    def _apply(self, order: Order, incoming: Incoming) -> list[Message]:
        message = incoming.message
        # What a state machine sends does not say that anybody watches it; only OrderAccepted does.
        order.answered |= isinstance(message, OrderAccepted) or not (
            coordinator.is_ours(order) or coordinator.runs_by_machine(order)
        )
        match message:
            case ConfirmOrder():
                return [confirm(order)]
            case CancelOrder(reason=reason, facts=facts):
                answer = cancel(order, reason, facts)
                return [answer] if answer else []
            case OrderNeedsAttention(reason=reason):
                order.attention, order.reason = order.open, order.reason or reason
                return []
            case OrderAccepted():
                return []
        order.facts.add(fact_of(message))
        if isinstance(message, Refusal) and order.cancelling:
            order.reason = order.reason or message.reason
        answers: list[Message] = []
        if isinstance(message, ShipmentScheduled):
            # The reaction: ShipmentScheduled → ConfirmOrder, this service's own command.
            answers.append(confirm(order))
        if coordinator.is_ours(order):
            answers += coordinator.conclude(order)
        return answers


def confirm(order: Order) -> Message:
    """ConfirmOrder: the arbiter confirms what is not cancelling. Decided once, under the row's lock."""
    if order.confirmed:
        return OrderConfirmed()
    if order.cancelling or order.cancelled:
        return ConfirmationRejected(reason="the order is being cancelled")
    order.facts.add(name_of(OrderConfirmed))
    order.attention, order.reason = False, ""
    return OrderConfirmed()


def cancel(order: Order, reason: str, facts: Sequence[str]) -> Message | None:
    """CancelOrder: CANCELLED if nothing is owed any more, else cancelling; never once it is confirmed.

    No answer to who has undone all that it knows of while a step is owed that it doesn't know: it is of an older
    version, and would go round. A newer one will ask, or an operator."""
    if order.confirmed:
        return OrderConfirmed()
    if order.cancelled:
        return OrderCancelled(reason=order.reason)
    order.reason = order.reason or reason
    if not facts:
        order.facts.add(name_of(OrderCancellationRequested))
    order.facts |= set(facts) & coordinator.KNOWN_FACTS
    if not order.cancelling or still_owed(order.facts):
        order.facts.add(name_of(OrderCancellationRequested))
        if name_of(OrderCancellationRequested) in facts:
            return None
        return OrderCancellationRequested(reason=order.reason)
    order.facts.add(name_of(OrderCancelled))
    order.attention = False
    return OrderCancelled(reason=order.reason)


def _operator_note(incoming: Incoming, settled: DeadLetterSettled) -> LogEntry:
    envelope = incoming.envelope
    return LogEntry(
        envelope.subject,
        envelope.sender,
        "note",
        f"DeadLetter{settled.action.capitalize()}",
        causation_id=envelope.causationid,
        note=f"{settled.by}: {settled.why} ({settled.letter})",
    )


def _note(message: Message) -> str:
    return str(getattr(message, "reason", ""))
