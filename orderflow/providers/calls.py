"""Calls to a provider in three phases, none of which holds a transaction open while the provider thinks.

1. `begin` commits the intent, with its fence and lease. 2. The call runs in a bounded pool, under a key that follows
from the order, so that asking again is harmless. 3. `handle` records the answer where the fence still matches, in one
transaction with the inbox and the outbox. The outcome is always told from the row.

Without an answer, the message that asks is kept in the database and acknowledged in phase 3: `providers.retrying` calls
again, and whoever records the answer gives it to who waits.

An undo raises the fence, then voids the key: afterwards the step has been compensated or can't happen any more, also
when its call is still in flight.
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
from orderflow.providers.attempts import Call, Called, Limits
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

__all__ = ["Called", "Limits", "ProviderApplication"]

log = structlog.get_logger(__name__)


class ProviderApplication(ABC):
    """An application of the kernel whose step is done by a provider. Subclasses say what their messages mean.

    `executor` runs the calls; by default a pool of its own.
    """

    service: str
    whole_orders = False
    step: Step
    kind: str
    """What the provider does: with the order's id it makes the idempotency key."""

    def __init__(self, table: str, limits: Limits, *, executor: Executor | None = None) -> None:
        self.intents = Intents(table)
        self.waits = Waits(table)
        self.limits = limits
        self.breaker = Breaker(limits.outage_after, limits.probe_every)
        self.counts: Counter[str] = Counter()
        """Calls, attempts, calls without an answer (`unknown`) and those not made (`withheld`), of this process."""
        self.stopping = threading.Event()
        self._executor = executor or ThreadPoolExecutor(limits.concurrency, thread_name_prefix=f"{self.kind}-call")
        self._room = threading.BoundedSemaphore(limits.concurrency)
        self._counting = threading.Lock()

    @abstractmethod
    def accept(self, message: Message) -> Message | None:
        """The reaction; see `Application`."""

    @abstractmethod
    def request(self, command: Message) -> dict[str, Any]:
        """What the call needs of the command, as JSON; kept with the intent, so that every attempt is the same."""

    @abstractmethod
    def do(self, key: str, order_id: str, request: dict[str, Any]) -> Success | Refused:
        """The provider's call; see `orderflow.providers` for what it may raise, and so for the next two."""

    @abstractmethod
    def void(self, key: str, order_id: str) -> Voided: ...

    @abstractmethod
    def lookup(self, key: str) -> Success | None: ...

    @abstractmethod
    def success(self, row: Intent) -> Message:
        """The outcome of a row that is done."""

    @abstractmethod
    def undone(self, row: Intent) -> Message:
        """The outcome of a row that is undone."""

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
        taken = self.intents.take(unit.connection, asked, self.limits.whole_lease)
        return [Call(self, mine, began, m.handling) if (mine := taken.get(m.order_id)) else None for m in batch]

    def needs(self, database: Database, batch: Sequence[Incoming]) -> Iterable[Need]:
        """See `Application`."""
        return [Need(m.order_id, self.intents.rows, m.order_id) for m in batch]

    def submit(self, call: Callable[[], Called]) -> Future[Called]:
        """Phase 2. Waits while all of the pool is at work: what waited in a queue would only use up its lease. A
        provider that is known to be unreachable is not called, and takes nobody's place."""
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
        """Phase 3: records the answers, then tells every outcome from its row."""
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
        """Phase 3 of calls that nobody asks for now: gives the answers to who waits for them."""
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
        """Tells who waits for these orders what another release recorded."""
        rows = self.intents.read_locked(unit.connection, order_ids)
        self._answer(unit, list(rows.values()))

    def gauges(self, database: Database) -> Sequence[Gauge]:
        """What waits, and whether this process takes the provider for unreachable."""
        count, oldest = self.waits.measured(database)
        return (
            Gauge("provider_waiting", "Calls that wait for their provider, in the database", count),
            Gauge("provider_waiting_oldest_seconds", "Since the oldest of them began to wait", oldest),
            Gauge("provider_unreachable", "Whether this process only probes its provider", self.breaker.open),
        )

    def close(self) -> None:
        """Begins no further attempt. Those that run end within their timeout."""
        self.stopping.set()
        self._executor.shutdown(wait=False)

    def count(self, what: str) -> None:
        """Counts `what` became of a call."""
        with self._counting:
            self.counts[what] += 1
            metrics.provider_calls[self.kind, what] += 1

    def _tells(self, message: Message, row: Intent) -> bool:
        """Whether the row answers a command: what came of it is known."""
        return row.state == UNDONE if isinstance(message, self.step.undo) else row.state != INTENDED

    def _outcome(self, message: Message, row: Intent) -> Message | None:
        """What the row answers to a command; None while nobody knows."""
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
            # An owner asks again, or an operator: it is called soon, for who asked last.
            puts.append(Put(self._newest(incoming, row), 0))
        elif called.fault:
            return called.fault  # type: ignore[no-any-return]
        elif called.taken.fence != row.fence:
            return Transient(f"another process has taken over the {self.kind} of {row.order_id}")
        else:
            puts.append(_once_more(self._newest(incoming, row), called))
        return []

    def _newest(self, incoming: Incoming, row: Intent) -> Waiting:
        """Who is to be answered: the message that was resent most often has the task token that still counts."""
        known, asking = row.waiting, incoming.envelope
        if known and known.resend > asking.resend:
            return known
        undo = isinstance(incoming.message, self.step.undo)
        return Waiting(row.order_id, undo, asking.encode(), asking.resend, known.tries if known else 0)

    def _answer(
        self, unit: UnitOfWork, rows: Sequence[Intent], newest: Mapping[str, Envelope] | None = None
    ) -> tuple[list[Intent], Collection[str]]:
        """Answers who waits for these (locked) rows, where they tell it. Returns the rows as they are then, and of
        which orders this release can't read who waits: they are put aside. `newest`: who gets an own answer."""
        after: list[Intent] = []
        answered: list[str] = []
        aside: dict[str, Exception] = {}
        for row in rows:
            reply = None
            try:
                reply = self._told(row, row.waiting) if row.waiting else None
            except Exception as error:  # noqa: BLE001 - a newer release's envelope can fail in any way
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
        """What the row answers to who waits, in its envelope; None while nobody knows."""
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
    """The place after a call without an answer. One that was not made waits for the provider alone."""
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
