"""Sends what the outbox holds: one thread a process, up to ten waiting messages a call, without lingering."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from orderflow import failpoints, telemetry
from orderflow.bus import BATCH, BATCH_BYTES, BatchRefused, Broker, SendFailure
from orderflow.errors import BrokerUnavailable, DatabaseUnavailable
from orderflow.outbox import Entry, Outbox, Unit

log = structlog.get_logger(__name__)

CAPACITY: Final = 1000
"""Messages that wait in memory. What does not fit stays in the database, and the relay takes it later."""

_PAUSE: Final = 0.5
"""Seconds between looks for a broker that is away."""


class Publisher:
    """The fast path and the relay's only way out. `on_parked` may add to the transaction that parks a message."""

    def __init__(self, outbox: Outbox, broker: Broker) -> None:
        self._outbox = outbox
        self._broker = broker
        self._waiting: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self.on_parked: Callable[[Unit, Entry, str], None] = lambda unit, entry, reason: None
        outbox.on_staged = self.hand_over

    @property
    def room(self) -> int:
        """How many more messages fit."""
        return CAPACITY - len(self._waiting)

    def hand_over(self, entries: Sequence[Entry]) -> None:
        """Takes messages that this process holds the lease of. Never blocks: what doesn't fit is the relay's."""
        with self._changed:
            self._waiting.extend(entries[: max(0, self.room)])
            self._changed.notify()

    def relay(self) -> int:
        """Takes over messages whose lease ran out, in this process or another. Returns how many."""
        room = min(self.room, 10 * BATCH)
        if room <= 0 or not self._broker.ready():
            return 0
        entries = self._outbox.claim(room)
        self.hand_over(entries)
        return len(entries)

    def run(self) -> None:
        """Sends until `stop`; then what still waits, for as long as the broker answers."""
        while True:
            with self._changed:
                while not self._waiting and not self._stopping:
                    self._changed.wait()
                if self._stopping and not self._waiting:
                    return
            if not self.step() and self._stopping:
                return

    def stop(self) -> None:
        """Lets `run` send what waits and return."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def step(self) -> bool:
        """Sends one batch of what waits. Returns False, after a pause, if the broker is away."""
        if not self._broker.ready():
            self._drop_expired()
            time.sleep(_PAUSE)
            return False
        batch = self._next_batch()
        if not batch:
            return True
        failpoints.reached("publish.before")
        began = time.time_ns()
        try:
            failures = self._send(batch)
        except BrokerUnavailable as error:
            log.warning("broker away; messages wait", error=str(error), waiting=len(batch))
            with self._changed:
                self._waiting.extendleft(reversed(batch))
            time.sleep(_PAUSE)
            return False
        failpoints.reached("publish.after")
        failed = {failure.index for failure in failures}
        telemetry.published(batch, failed, began)
        self._outbox.sent([entry for i, entry in enumerate(batch) if i not in failed])
        for failure in failures:
            self._failed(batch[failure.index], failure)
        return True

    def _next_batch(self) -> list[Entry]:
        """Up to ten messages for one destination, in the order they were staged, as many bytes as a call takes."""
        with self._changed:
            self._drop_expired()
            batch: list[Entry] = []
            others: deque[Entry] = deque()
            size = 0
            while self._waiting and len(batch) < BATCH:
                entry = self._waiting.popleft()
                if batch and (entry.channel, entry.target) != (batch[0].channel, batch[0].target):
                    others.append(entry)
                elif size + entry.parcel.size > BATCH_BYTES:
                    others.append(entry)
                    break
                else:
                    batch.append(entry)
                    size += entry.parcel.size
            self._waiting.extendleft(reversed(others))
            return batch

    def _drop_expired(self) -> None:
        # Their rows are another's by now: sending them here too would only be a repeat.
        now = time.monotonic()
        while self._waiting and self._waiting[0].lease_ends < now:
            self._waiting.popleft()

    def _send(self, batch: Sequence[Entry]) -> Sequence[SendFailure]:
        first = batch[0]
        try:
            return self._broker.send(first.channel, first.target, [entry.parcel for entry in batch])
        except BatchRefused as error:
            if len(batch) == 1:
                return [SendFailure(0, str(error), final=True)]
            failures = []
            for i, entry in enumerate(batch):
                failures += [SendFailure(i, f.reason, f.final) for f in self._send([entry])]
            return failures

    def _failed(self, entry: Entry, failure: SendFailure) -> None:
        envelope = entry.parcel.envelope
        known = {**envelope.about, "reason": failure.reason}
        if not failure.final:
            log.warning("message not taken; it is sent again when its lease runs out", **known)
            return
        log.error("message refused for good; parked in the outbox", **known)
        try:
            with self._outbox.transaction() as unit:
                self._outbox.park(unit, entry, failure.reason)
                self.on_parked(unit, entry, failure.reason)
        except DatabaseUnavailable as error:
            log.warning("could not park a message; it is tried again", error=str(error), **known)
