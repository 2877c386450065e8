"""Handles the orchestrator's messages: each adds a fact to its saga, then the engine decides what is sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator import engine, store, transitions, watched_executions
from orchestrator.store import Saga
from orderflow.contracts import (
    MESSAGES,
    ConfirmationRejected,
    Message,
    OrderCancellationRequested,
    OrderCancelled,
    OrderConfirmed,
    OrderPlaced,
    OrderRetryRequested,
    kind_of,
)
from orderflow.database import Connection, Cursor, Database
from orderflow.database.holders import Need
from orderflow.envelope import Envelope
from orderflow.errors import Rejected, Transient
from orderflow.messaging.application import Incoming, Reply
from orderflow.messaging.outbox import UnitOfWork
from orderflow.routing import COORDINATOR, MACHINE
from orderflow.saga import STEPS, fact_of, owed
from orderflow.saga.answers import Answers
from orderflow.saga.audit_log import NewRecord
from orderflow.saga.retry_budget import RetryBudget
from orderflow.settings import Settings

_FACTS = {m for step in STEPS for m in (step.success, step.refusal, step.undone)} | {
    OrderConfirmed,
    OrderCancelled,
    ConfirmationRejected,
    OrderCancellationRequested,
}
_HEARD = _FACTS | {OrderPlaced, OrderRetryRequested}


class Orchestrator:
    """The orchestrator as an application of the kernel."""

    service = "orchestrator"
    whole_orders = True

    def __init__(self, settings: Settings, budget: RetryBudget, answers: Answers) -> None:
        self._settings = settings
        self._budget = budget
        self._answers = answers

    def accept(self, message: Message) -> Message | None:
        return message if type(message) in _HEARD else None

    def needs(self, database: Database, batch: Sequence[Incoming]) -> Iterable[Need]:
        rows = {machine: watched_executions.ROWS if machine else store.ROWS for machine in (True, False)}
        return [Need(m.order_id, rows[COORDINATOR[m.envelope.workflow] == MACHINE], m.order_id) for m in batch]

    def lock(self, connection: Connection, batch: Sequence[Incoming]) -> Cursor:
        return store.lock(connection, (m.order_id for m in batch if COORDINATOR[m.envelope.workflow] != MACHINE))

    def handle(self, unit: UnitOfWork, batch: Sequence[Incoming]) -> Sequence[Reply]:
        machines = [m for m in batch if COORDINATOR[m.envelope.workflow] == MACHINE]
        if not machines:
            return self._handle_sagas(unit, batch)
        log: list[NewRecord] = []
        heard = iter(watched_executions.hear(unit.connection, machines, log))
        store.LOG.write(unit.connection, log)
        others = [m for m in batch if COORDINATOR[m.envelope.workflow] != MACHINE]
        handled = iter(self._handle_sagas(unit, others))
        return [next(heard if COORDINATOR[m.envelope.workflow] == MACHINE else handled) for m in batch]

    def _handle_sagas(self, unit: UnitOfWork, batch: Sequence[Incoming]) -> Sequence[Reply]:
        sagas = store.read(unit.locked, (m.order_id for m in batch))
        old = set(sagas)
        log: list[NewRecord] = []
        replies = [self._apply(sagas, incoming, log) for incoming in batch]
        store.insert(unit.connection, [saga for i, saga in sagas.items() if i not in old])
        store.save(unit.connection, [saga for i, saga in sagas.items() if i in old])
        store.LOG.write(unit.connection, log)
        return replies

    def _apply(self, sagas: dict[str, Saga], incoming: Incoming, log: list[NewRecord]) -> Reply:
        message, envelope = incoming.message, incoming.envelope
        if COORDINATOR[envelope.workflow] != self.service:
            return Rejected(f"an order under {envelope.workflow.value} has no saga")
        saga = sagas.get(incoming.order_id)
        if saga is None:
            if isinstance(message, OrderCancellationRequested):
                # It can overtake its OrderPlaced. All other messages answer one that this orchestrator sent.
                return Transient(f"order {incoming.order_id} has no saga yet")
            if not isinstance(message, OrderPlaced):
                return Rejected(f"there is no saga for order {incoming.order_id}")
            saga = sagas[incoming.order_id] = transitions.start(incoming, message)
            started = True
        else:
            started = False
        before, sender = len(saga.facts), envelope.sender
        asked = engine.ASKED.get(saga.open_type or "")
        if type(message) in _FACTS:
            saga.facts.add(fact_of(message))
            if not saga.reason and saga.active and owed(saga.facts) is not None:
                saga.reason = str(getattr(message, "reason", ""))
        caused: list[Envelope] = []
        if started or len(saga.facts) > before or not incoming.known:
            note = str(getattr(message, "reason", "") or getattr(message, "why", ""))
            log.append(
                NewRecord(saga.order_id, sender, "event", envelope.name, envelope.id, envelope.causationid, note)
            )
        if started or len(saga.facts) > before:
            if sender == asked:
                self._answers.heard(sender, saga.waited)
            saga.waited = 0.0
            self._budget.record_progress(helped=bool(envelope.resend and saga.sends))
            caused += self._advance(saga, incoming)
        if isinstance(message, OrderRetryRequested) and not incoming.known:
            caused += self._retry(saga, incoming)
        if envelope.resend and isinstance(message, OrderPlaced | OrderCancellationRequested):
            told = watched_executions.reminded(attention=saga.attention, reason=saga.reason)
            caused.append(incoming.answer(told, self.service))
            if not saga.active:
                # The saga has ended, but its order is open, perhaps restored from a backup. Tell the arbiter again.
                end = engine.last_word(saga.workflow, saga.snapshot, saga.facts, saga.reason)
                caused.append(incoming.answer(end, self.service))
        log += [NewRecord(saga.order_id, self.service, kind_of(e.name), e.name, e.id, envelope.id) for e in caused]
        return caused

    def _advance(self, saga: Saga, incoming: Incoming) -> list[Envelope]:
        """Applies new facts: the saga's times start anew, and the message that is open now is sent unless it was sent
        before."""
        message = transitions.advance(saga, self._settings)
        return [incoming.answer(message, self.service, saga.open_id)] if message else []

    def _retry(self, saga: Saga, incoming: Incoming) -> list[Envelope]:
        """Handles an operator's retry: sends the open message again, with all of its attempts available again."""
        if not saga.active or saga.open_type is None:
            return []
        saga.attention, saga.sends = False, 1
        transitions.restart_times(saga, self._settings)
        message = engine.message_for(MESSAGES[saga.open_type], saga.snapshot, saga.facts, saga.reason)
        return [incoming.answer(message, self.service, saga.open_id).again()]
