"""One service in one process: its application, and the threads around it. Made after the fork."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Final, Protocol

import structlog

from orderflow import idempotency
from orderflow.broker import Broker
from orderflow.database import Database
from orderflow.database.clock_set_back import TOLERANCE, Ahead, set_right
from orderflow.database.retention import Kept, Retention
from orderflow.errors import Transient
from orderflow.messaging import inbox, receivers
from orderflow.messaging.application import Application
from orderflow.messaging.consumer import Consumer
from orderflow.messaging.guard import Guard
from orderflow.messaging.outbox import AHEAD, Outbox
from orderflow.messaging.processor import Processor
from orderflow.messaging.publisher import Publisher
from orderflow.messaging.receivers import Receivers
from orderflow.metrics import Gauge
from orderflow.saga.answers import Answers
from orderflow.settings import Role, Settings
from orderflow.telemetry.shared_counters import Counters

log = structlog.get_logger(__name__)

_TICK: Final = 1.0
_PRUNE_EVERY: Final = 3600.0
"""Seconds between prunings; a quarter of the shortest retention time, if that is less."""
_PRUNE_AGAIN: Final = 30.0
"""Seconds until pruning is retried, if a long transaction held a table."""
_COUNT_EVERY: Final = 5.0
_SWEEPS: Final = 20
"""Maximum number of batches of due orders per tick; after an outage many are due at once."""
_FAR_BEHIND: Final = 6.0
"""Seconds by which a watermark may be behind until an owner with due orders polls its queue itself."""
_BEAT_LATE: Final = 20.0
"""Seconds beyond the long poll after which a silent consumer counts as stuck."""


class Sweeper(Protocol):
    """The owner of deadlines: resends messages without an answer, and compensates orders that are too late."""

    def sweep(self, lag: float, resumed: float = inf) -> bool:
        """Handles due orders; returns whether there may be more. `lag`: seconds that the watermark of the owner's queue
        is behind the database's clock, infinite while it is unknown; `resumed`: seconds since this owner resumed after
        it was down, or could not hear its queue."""

    def waits(self) -> bool:
        """Whether anything would be due if the watermark had reached the current time."""


class Worker(Protocol):
    """Additional work of a service, in a thread of its own."""

    name: str

    def run(self) -> None:
        """Works until `stop`."""

    def stop(self) -> None:
        """Begins no further work."""


class Service:
    """Connects one application to its database and broker. `start` runs the parts in threads; tests call their `step`
    methods instead."""

    def __init__(
        self,
        settings: Settings,
        application: Application,
        database: Database,
        outbox: Outbox,
        broker: Broker,
        *,
        processor: Callable[[Guard], Processor] | None = None,
        sweeper: Sweeper | None = None,
        workers: Sequence[Worker] = (),
        answers: Answers | None = None,
        kept: Sequence[Kept] = (),
        ahead: Sequence[Ahead] = (),
        close: Callable[[], None] = lambda: None,
        gauges: Callable[[], Sequence[Gauge]] = tuple,
        consumer_threads: int = 1,
    ) -> None:
        self.settings = settings
        self.name = application.service
        self.application = application
        self.database = database
        self.outbox = outbox
        self.broker = broker
        self.publisher = Publisher(outbox, broker)
        guard = Guard(
            self.name,
            lambda message_id, error: inbox.count_failure(database, message_id, error),
            parked_at=settings.failures_until_parked,
        )
        self.processor = processor(guard) if processor else Processor(application, outbox, guard)
        self.consumer = Consumer(
            broker.queue(self.name),
            self.processor,
            database_alive=database.alive,
            long_poll=settings.long_poll,
            visibility=settings.visibility,
            heartbeat=settings.heartbeat,
            give_back=(lambda until: self.receivers.give_back(until)) if answers else None,  # type: ignore[union-attr]
        )
        self.sweeper = sweeper
        self.workers = workers
        self.answers = answers
        self.receivers = Receivers(database, self.consumer.watermark, answers, settings) if answers else None
        self.counters = Counters(database)
        self.gauges = gauges
        self._retention = Retention(
            database,
            (
                *inbox.kept(settings.keep_inbox),
                *idempotency.kept(settings.keep_idempotency_keys),
                *(receivers.KEPT if answers else ()),
                *kept,
            ),
        )
        self._ahead = (*AHEAD, *(receivers.AHEAD if answers else ()), *ahead)
        self._close = close
        self._consumer_threads = consumer_threads
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.schema: str | None = None
        """Why the database's schema is older than this code; until it is current, the service is not started."""
        self.works = settings.orderflow_role is not Role.WEB
        """Whether this process receives messages."""

    def start(self) -> None:
        """Starts the threads that the process's role needs."""
        self.database.open()
        jobs: list[tuple[str, Callable[[], None]]] = [
            ("publisher", self.publisher.run),
            ("maintenance", self._maintain),
            ("retention", self._retain),
        ]
        if self.works:
            threads = self.settings.consumer_threads or self._consumer_threads
            jobs += [(f"consumer-{i}", self.consumer.run) for i in range(threads)]
            jobs += [("acknowledger", self.consumer.acknowledger.run), ("heartbeat", self._beat)]
            jobs += [(worker.name, worker.run) for worker in self.workers]
        self._threads = [threading.Thread(target=job, name=name, daemon=True) for name, job in jobs]
        for thread in self._threads:
            thread.start()

    def stop(self, grace: float = 8.0) -> None:
        """Stops receiving, finishes the messages in flight, publishes the results, and closes; within `grace`
        seconds."""
        ends = time.monotonic() + grace
        self.consumer.stop()
        for worker in self.workers:
            worker.stop()
        while self.consumer.busy and time.monotonic() < ends - 2:
            time.sleep(0.02)
        self.consumer.acknowledger.stop()
        self.publisher.stop()
        self._stopping.set()
        for thread in self._threads:
            # A consumer may be in a long poll with no message in flight: it need not be waited for.
            if not thread.name.startswith("consumer"):
                thread.join(max(0.1, ends - time.monotonic()))
        try:
            self.outbox.flush()
        except Transient as error:
            log.info("sent messages stay in the outbox and will be resent", error=str(error))
        self._try("counters", self.counters.hand_in)
        if self.receivers and self.works:
            self._try("report", lambda: self.receivers.report(leaving=True))  # type: ignore[union-attr]
        self._close()
        self.database.close()
        self.broker.close()

    def not_ready(self) -> dict[str, str]:
        """What keeps this process from working, by part; empty when it is ready."""
        problems = {}
        if self.schema:
            problems["schema"] = self.schema
        elif problem := self.database.problem():
            problems["database"] = problem
        if not self.broker.ready():
            problems["broker"] = "does not answer, or its stack is not complete (yet)"
        silent = time.monotonic() - self.consumer.beat
        if self.works and silent > self.settings.long_poll + _BEAT_LATE:
            problems["consumer"] = f"no sign of life for {silent:.0f} s"
        return problems

    def _beat(self) -> None:
        # In a thread of its own: behind long sweeps or prunings, messages in flight would become visible again.
        while not self._stopping.wait(_TICK):
            if self.receivers:
                self._try("report", self.receivers.report)
            self._try("heartbeat", self.consumer.extend_visibility)

    def _maintain(self) -> None:
        relayed = counted = time.monotonic()
        righted = -inf
        settings = self.settings
        while not self._stopping.wait(_TICK):
            now = time.monotonic()
            self._try("mark sent", self.outbox.flush)
            if now - relayed >= settings.lease / 2:
                relayed = now
                self._try("relay", self.publisher.relay)
            if self.works:
                if now - righted >= TOLERANCE:
                    righted = now
                    self._try("set right", self.set_right)
                self._try("sweep", self.sweep)
            if now - counted >= _COUNT_EVERY:
                counted = now
                self._try("counters", self.counters.hand_in)

    def set_right(self) -> int:
        """Makes rows due now that the database's clock, set back since, had put too far ahead. Returns their number."""
        return set_right(self.database, self._ahead, self.settings.longest_wait)

    def sweep(self) -> None:
        """Handles the deadlines that this service owns."""
        if not self.sweeper or not self.receivers:
            return
        for _ in range(_SWEEPS):
            look = self.receivers.look()
            if look.lag > _FAR_BEHIND and self.consumer.watermark.hearing and self.sweeper.waits():
                # The consumer's threads may be in long polls: a short poll shows sooner whether the queue is empty.
                self.consumer.step(1)
            if not self.sweeper.sweep(look.lag, look.resumed):
                return

    def _retain(self) -> None:
        # In a thread of its own: however much there is to remove, it delays no relay and no deadline.
        wait = 0.0
        while not self._stopping.wait(wait):
            wait = _PRUNE_AGAIN
            try:
                wait = self._prune_every if self.prune() else min(_PRUNE_AGAIN, self._prune_every)
            except Exception:
                log.exception(f"pruning failed; retrying in {wait:g} s")

    @property
    def _prune_every(self) -> float:
        settings = self.settings
        shortest = min(settings.keep_inbox, settings.keep_log, settings.keep_idempotency_keys)
        return min(_PRUNE_EVERY, shortest / 4)

    def prune(self) -> bool:
        """Removes what is older than the retention settings allow, and makes partitions in advance. Returns whether
        everything succeeded."""
        return self._retention.run(self._prune_every)

    def _try(self, what: str, job: Callable[[], object]) -> None:
        try:
            job()
        except Transient as error:
            log.warning("maintenance job unavailable; retrying", job=what, error=str(error))
        except Exception:
            # The other jobs must continue.
            log.exception("maintenance job failed; retrying", job=what)
