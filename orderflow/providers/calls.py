"""Calls to a provider in three phases, none of which holds a transaction open while the provider works.

1. `begin` commits the intent, with its fence and lease. 2. The call runs in a bounded pool, under a key derived from
the order, so that a retry is harmless. 3. `handle` records the answer if the fence still matches, in one transaction
with the inbox and the outbox. The outcome is always derived from the row.

Without an answer, the asking message is stored in the database and acknowledged in phase 3: `providers.retrying` calls
again, and the process that records the answer sends it to the message that waits.

A compensation raises the fence, then voids the key: afterwards the step has been compensated or can't happen any more,
even if its call is still in flight.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import structlog

from orderflow import contracts, failpoints, metrics
from orderflow.contracts import Message
from orderflow.database import Database
from orderflow.database.holders import Need
from orderflow.envelope import Envelope, decode
from orderflow.errors import Transient, UnreadableRow
from orderflow.messaging.application import Incoming, Reply
from orderflow.messaging.outbox import UnitOfWork
from orderflow.metrics import Gauge
from orderflow.providers import Refused, Success, Voided
from orderflow.providers.attempts import Call, Called, CallPolicy
from orderflow.providers.breaker import Breaker
from orderflow.providers.intents import (
    DONE,
    INTENDED,
    REFUSED,
    UNDOING,
    UNDONE,
    Intent,
    Intents,
    Outcome,
    Request,
    Waiting,
)
from orderflow.providers.waits import Put, Waits, backoff
from orderflow.saga import Step

__all__ = ["CallPolicy", "Called", "ProviderApplication"]

log = structlog.get_logger(__name__)


class ProviderApplication(ABC):
    """An application whose step is done by a provider. Subclasses define the meaning of their messages.

    `executor` runs the calls; the default is a pool of its own.
    """

    service: str
    whole_orders = False
    step: Step
    kind: str
    """What the provider does. Together with the order's id it forms the idempotency key."""

    def __init__(self, table: str, policy: CallPolicy, *, executor: Executor | None = None) -> None:
        self.intents = Intents(table)
        self.waits = Waits(table)
        self.policy = policy
        self.breaker = Breaker(policy.outage_after, policy.probe_every)
        self.counts: Counter[str] = Counter()
        """This process's calls, attempts, calls without an answer (`unknown`) and calls not made (`withheld`)."""
        self.stopping = threading.Event()
        self._executor = executor or ThreadPoolExecutor(policy.concurrency, thread_name_prefix=f"{self.kind}-call")
        self._room = threading.BoundedSemaphore(policy.concurrency)
        self._counting = threading.Lock()

    @abstractmethod
    def accept(self, message: Message) -> Message | None:
        """The reaction; see `Application`."""

    @abstractmethod
    def request(self, command: Message) -> dict[str, Any]:
        """The call's data from the command, as JSON; stored with the intent, so that every attempt is the same."""

    @abstractmethod
    def do(self, key: str, order_id: str, request: dict[str, Any]) -> Success | Refused:
        """Makes the provider's call; `orderflow.providers.protocol` says what this and the next two may raise."""

    @abstractmethod
    def void(self, key: str, order_id: str) -> Voided: ...

    @abstractmethod
    def lookup(self, key: str) -> Success | None: ...

    @abstractmethod
    def success(self, row: Intent) -> Message:
        """The outcome of a row that is done."""

    @abstractmethod
    def undone(self, row: Intent) -> Message:
        """The outcome of a row that is compensated."""

    def begin(self, unit: UnitOfWork, batch: Sequence[Incoming]) -> Sequence[Callable[[], Called] | None]:
        """Phase 1; see `CallsProvider`."""
        failpoints.reached("intent.before")
        began = time.monotonic()
        asked = [
            Request(m.order_id, undo=True)
            if isinstance(m.message, self.step.undo)
            else Request(m.order_id, undo=False, request=self.request(m.message))
            for m in batch
        ]
        taken = self.intents.take(unit.connection, asked, self.policy.whole_lease)
        return [Call(self, mine, began, m.handling) if (mine := taken.get(m.order_id)) else None for m in batch]

    def needs(self, database: Database, batch: Sequence[Incoming]) -> Iterable[Need]:
        """See `Application`."""
        return [Need(m.order_id, self.intents.rows, m.order_id) for m in batch]

    def submit(self, call: Callable[[], Called]) -> Future[Called]:
        """Phase 2. Waits while the whole pool is busy: a call that waited in a queue would only use up its lease. A
        provider that is known to be unreachable is not called, and takes no place in the pool."""
        failpoints.reached("intent.after")
        if isinstance(call, Call) and not self.breaker.allows():
            future: Future[Called] = Future()
            future.set_result(call.withheld())
            return future
        self._room.acquire()
        try:
            future = self._executor.submit(call)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future

    def handle(self, unit: UnitOfWork, batch: Sequence[Incoming]) -> Sequence[Reply]:
        """Phase 3: records the answers, then derives every outcome from its row."""
        called = [m.result for m in batch if isinstance(m.result, Called)]
        if called:
            self.intents.settle(unit.connection, [_settled(c) for c in called])
        rows = self.intents.read(unit.connection, [m.order_id for m in batch])
        unsettled = [m.order_id for m in batch if (row := rows[m.order_id]).waiting or not self._tells(m.message, row)]
        puts: list[Put] = []
        if unsettled:
            rows |= self.intents.read_locked(unit.connection, unsettled)
            newest = {m.order_id: m.envelope for m in batch}
            after, _ = self._answer(unit, [rows[o] for o in unsettled], newest)
            rows |= {row.order_id: row for row in after}
        replies = [self._reply(m, rows[m.order_id], puts) for m in batch]
        if puts:
            self.waits.put(unit.connection, puts)
        return replies

    def record(self, unit: UnitOfWork, called: Sequence[Called]) -> None:
        """Phase 3 of retried calls: records the answers and sends them to the messages that wait for them."""
        self.intents.settle(unit.connection, [_settled(c) for c in called])
        mine = {c.taken.order_id: c for c in called}
        rows = self.intents.read_locked(unit.connection, mine)
        puts: list[Put] = []
        after, aside = self._answer(unit, list(rows.values()))
        for row in after:
            call = mine[row.order_id]
            if row.waiting and call.taken.fence == row.fence and row.order_id not in aside:
                puts.append(_once_more(row.waiting, call))
            if call.fault:
                log.error("the provider's client failed", order_id=row.order_id, kind=self.kind, exc_info=call.fault)
        if puts:
            self.waits.put(unit.connection, puts)

    def answer(self, unit: UnitOfWork, order_ids: Sequence[str]) -> None:
        """Answers the messages that wait for these orders, with outcomes that another release has recorded."""
        rows = self.intents.read_locked(unit.connection, order_ids)
        self._answer(unit, list(rows.values()))

    def gauges(self, database: Database) -> Sequence[Gauge]:
        """The waiting calls, and whether this process considers the provider unreachable."""
        count, oldest = self.waits.measured(database)
        return (
            Gauge("provider_waiting", "Calls that wait for their provider, in the database", count),
            Gauge("provider_waiting_oldest_seconds", "Since the oldest of them began to wait", oldest),
            Gauge("provider_unreachable", "Whether this process only probes its provider", self.breaker.open),
        )

    def close(self) -> None:
        """Begins no further attempt. Running attempts end within their timeout."""
        self.stopping.set()
        self._executor.shutdown(wait=False)

    def count(self, what: str) -> None:
        """Counts `what` happened to a call."""
        with self._counting:
            self.counts[what] += 1
            metrics.provider_calls[self.kind, what] += 1

    def _tells(self, message: Message, row: Intent) -> bool:
        """Whether the row answers a command, because its outcome is known."""
        return row.state == UNDONE if isinstance(message, self.step.undo) else row.state != INTENDED

    def _outcome(self, message: Message, row: Intent) -> Message | None:
        """The row's answer to a command; None while it is unknown."""
        if not self._tells(message, row):
            return None
        if isinstance(message, self.step.undo):
            return self.undone(row)
        if row.state == DONE:
            return self.success(row)
        return self.step.refusal(reason=row.reason if row.state == REFUSED else contracts.UNDONE)

    def _reply(self, incoming: Incoming, row: Intent, puts: list[Put]) -> Reply:
        outcome = self._outcome(incoming.message, row)
        if outcome is not None:
            return [outcome]
        called = incoming.result
        if called is None and row.waiting is None:
            return Transient(f"another process is at the {self.kind} of {row.order_id}")
        if called is None:
            # An owner or an operator has resent it: call soon, and answer the latest message.
            puts.append(Put(self._newest(incoming, row), 0))
        elif called.fault:
            return called.fault  # type: ignore[no-any-return]
        elif called.taken.fence != row.fence:
            return Transient(f"another process has taken over the {self.kind} of {row.order_id}")
        else:
            puts.append(_once_more(self._newest(incoming, row), called))
        return []

    def _newest(self, incoming: Incoming, row: Intent) -> Waiting:
        """The message to answer: the latest resend, because only its task token is still valid."""
        known, asking = row.waiting, incoming.envelope
        if known and known.resend > asking.resend:
            return known
        undo = isinstance(incoming.message, self.step.undo)
        return Waiting(row.order_id, undo, asking.encode(), asking.resend, known.tries if known else 0)

    def _answer(
        self, unit: UnitOfWork, rows: Sequence[Intent], newest: Mapping[str, Envelope] | None = None
    ) -> tuple[list[Intent], Collection[str]]:
        """Answers the messages that wait for these (locked) rows, if the outcome is known. Returns the rows afterwards,
        and the orders whose waiting message this release can't read: they are postponed. `newest`: messages that get an
        answer of their own."""
        after: list[Intent] = []
        answered: list[str] = []
        aside: dict[str, Exception] = {}
        for row in rows:
            reply = None
            try:
                reply = self._told(row, row.waiting) if row.waiting else None
            except Exception as error:  # noqa: BLE001 - an envelope of a newer release can fail in any way
                aside[row.order_id] = error
            if reply is None:
                after.append(row)
                continue
            asks = newest.get(row.order_id) if newest else None
            if asks is None or asks.id != reply.causationid or asks.resend < reply.resend:
                unit.stage([reply])
            answered.append(row.order_id)
            after.append(replace(row, waiting=None))
        if answered:
            self.waits.drop(unit.connection, answered)
        self.waits.aside.put(aside, unit.connection.execute)
        return after, aside

    def _told(self, row: Intent, waiting: Waiting) -> Envelope | None:
        """The row's answer to the waiting message, in an envelope; None while the outcome is unknown."""
        envelope = decode(waiting.asking)
        message = envelope.message()
        command = self.accept(message)
        if command is None:
            raise UnreadableRow(f"{envelope.name} asks {self.service} for nothing, in this release")
        outcome = self._outcome(command, row)
        if outcome is None:
            return None
        return Incoming(envelope, command, getattr(message, "order", None)).answer(outcome, self.service)


def _once_more(waiting: Waiting, called: Called) -> Put:
    """The waiting entry after a call without an answer. A call that was not made doesn't raise the delay."""
    if not called.attempted:
        return Put(waiting, 0)
    return Put(replace(waiting, tries=waiting.tries + 1), backoff(waiting.tries))


def _settled(called: Called) -> Outcome:
    match called.answer:
        case Success(reference):
            return Outcome(called.taken, DONE, reference)
        case Refused(reason):
            return Outcome(called.taken, REFUSED, reason=reason)
        case Voided(reference, amount, currency):
            money = None if amount is None else {"amount": amount, "currency": currency}
            return Outcome(called.taken, UNDONE, reference, result=money)
        case None:
            return Outcome(called.taken, UNDOING if called.taken.undo else INTENDED)
