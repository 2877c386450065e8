"""Handles the order service's messages: the arbiter's two commands, and outcomes, which become facts of orders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from orderflow.contracts import (
    CancelOrder,
    ConfirmOrder,
    DeadLetterSettled,
    Message,
    OrderAccepted,
    OrderNeedsAttention,
    kind_of,
)
from orderflow.database import Connection, Cursor, Database
from orderflow.database.holders import Need
from orderflow.errors import Rejected
from orderflow.messaging.application import Incoming, Reply
from orderflow.messaging.outbox import UnitOfWork
from orderflow.metrics import Histogram
from orderflow.saga import STEPS
from orderflow.saga.answers import Answers
from orderflow.saga.audit_log import NewRecord
from orderflow.saga.retry_budget import RetryBudget
from orderflow.settings import Settings
from services.order import coordinator, models

_HEARD = {m for step in STEPS for m in (step.success, step.refusal, step.undone)} | {
    ConfirmOrder,
    CancelOrder,
    OrderAccepted,
    OrderNeedsAttention,
    DeadLetterSettled,
}

order_seconds: Final = Histogram(
    "order_seconds",
    "Time per order from its acceptance to its end",
    (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
    "workflow",
    "status",
)


class Orders:
    """The order service as an application of the kernel: it is the arbiter and keeps the record of each order."""

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

    def handle(self, unit: UnitOfWork, batch: Sequence[Incoming]) -> Sequence[Reply]:
        orders = models.read(unit.locked, (m.order_id for m in batch))
        open_before = [order for order in orders.values() if order.open]
        log: list[NewRecord] = []
        replies: list[Reply] = []
        for incoming in batch:
            order = orders.get(incoming.order_id)
            if isinstance(incoming.message, DeadLetterSettled):
                if order is not None and not incoming.known:
                    log.append(_operator_note(incoming, incoming.message))
                replies.append([])  # a note about an order that does not exist has no use
                continue
            if order is None:
                replies.append(Rejected(f"there is no order {incoming.order_id}"))
                continue
            envelope = incoming.envelope
            before, asked = len(order.facts), order.waits_for
            caused = [incoming.answer(m, self.service) for m in order.apply(incoming.message)]
            if len(order.facts) > before or not incoming.known:
                kind, note = kind_of(envelope.name), _note(incoming.message)
                log.append(
                    NewRecord(order.id, envelope.sender, kind, envelope.name, envelope.id, envelope.causationid, note)
                )
            log += [NewRecord(order.id, self.service, "event", e.name, e.id, envelope.id) for e in caused]
            if len(order.facts) > before:
                # Facts arrive in any order: one that is early says nothing about when its service was asked.
                if (service := envelope.sender) == asked:
                    self._answers.heard(service, order.waited)
                self._budget.record_progress(helped=bool(envelope.resend and order.sends))
                order.waited = 0.0
                coordinator.progressed(order, self._settings)
            replies.append(caused)
        models.save(unit.connection, list(orders.values()))
        models.LOG.write(unit.connection, log)
        for order in open_before:
            if not order.open:
                order_seconds.observe(order.age, order.workflow.value, order.status.value)
        return replies


def _operator_note(incoming: Incoming, settled: DeadLetterSettled) -> NewRecord:
    envelope = incoming.envelope
    return NewRecord(
        envelope.subject,
        envelope.sender,
        "note",
        f"DeadLetter{settled.action.capitalize()}",
        causation_id=envelope.causationid,
        note=f"{settled.by}: {settled.why} ({settled.letter})",
    )


def _note(message: Message) -> str:
    return str(getattr(message, "reason", ""))
