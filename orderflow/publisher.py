"""Sends what the outbox holds: one thread a process, up to ten messages of one destination a call.

A message that was staged alone is sent at once. Those of a batch are a sign of load: they wait a moment for company,
because fewer and fuller calls are what makes room for more orders, here, at the broker, and wherever they are received.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Final

import structlog

from orderflow import failpoints, telemetry
from orderflow.bus import BATCH, BATCH_BYTES, BatchRefused, Broker, SendFailure
from orderflow.errors import BrokerUnavailable, DatabaseUnavailable
from orderflow.outbox import Entry, Outbox
from orderflow.routing import Channel

log = structlog.get_logger(__name__)

CAPACITY: Final = 1000
"""Messages that wait in memory. What does not fit stays in the database, and the relay takes it later."""

_COMPANY: Final = 0.015
"""Seconds that a message of a batch waits at most until there are ten for its destination."""

_PAUSE: Final = 0.5
"""Seconds between looks for a broker that is away."""


class Publisher:
    """The fast path and the relay's only way out."""

    def __init__(self, outbox: Outbox, broker: Broker) -> None:
        self._outbox = outbox
        self._broker = broker
        self._lanes: dict[tuple[Channel, str], deque[tuple[float, Entry]]] = {}
        """By destination: when a message is to be sent at the latest (monotonic seconds), and the message."""
        self._changed = threading.Condition()
        self._stopping = False
        outbox.on_staged = self.hand_over

    @property
    def waiting(self) -> int:
        """How many messages wait in memory."""
        with self._changed:
            return sum(map(len, self._lanes.values()))

    @property
    def room(self) -> int:
        """How many more messages fit."""
        return CAPACITY - self.waiting

    def hand_over(self, entries: Sequence[Entry]) -> None:
        """Takes messages that this process holds the lease of. Never blocks: what doesn't fit is the relay's."""
        with self._changed:
            due = time.monotonic() + (_COMPANY if len(entries) > 1 else 0)
            for entry in entries[: max(0, self.room)]:
                self._lanes.setdefault((entry.channel, entry.target), deque()).append((due, entry))
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
                while not self._stopping and (pause := self._due_in()) > 0:
                    self._changed.wait(None if pause == inf else pause)
                if self._stopping and not self._lanes:
                    return
            try:
                went = self.step()
            except Exception:
                # Whatever it is, a publisher that ended would leave this process's messages, and what its relay takes
                # over, to nobody. What it had in hand is sent when its lease has run out.
                log.exception("publisher stumbled; it goes on")
                time.sleep(_PAUSE)
                went = False
            if not went and self._stopping:
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
            self._put_back(batch)
            time.sleep(_PAUSE)
            return False
        failpoints.reached("publish.after")
        failed = {failure.index for failure in failures}
        telemetry.published(batch, failed, began)
        self._outbox.sent([entry for i, entry in enumerate(batch) if i not in failed])
        for failure in failures:
            self._failed(batch[failure.index], failure)
        return True

    def _due_in(self) -> float:
        """Seconds until something is to be sent: a full batch now, another when its oldest message is due."""
        if any(len(lane) >= BATCH for lane in self._lanes.values()):
            return 0.0
        return min((lane[0][0] for lane in self._lanes.values()), default=inf) - time.monotonic()

    def _next_batch(self) -> list[Entry]:
        """Up to ten messages for one destination, in the order they were staged, as many bytes as a call takes."""
        with self._changed:
            self._drop_expired()
            if not self._lanes:
                return []
            now = time.monotonic()
            # Of those that are to be sent now, the one that has waited longest: no destination starves another.
            ready = [key for key, lane in self._lanes.items() if len(lane) >= BATCH or lane[0][0] <= now]
            key = min(ready or self._lanes, key=lambda k: self._lanes[k][0][0])
            lane = self._lanes[key]
            batch: list[Entry] = []
            size = 0
            while lane and len(batch) < BATCH and (not batch or size + lane[0][1].parcel.size <= BATCH_BYTES):
                _, entry = lane.popleft()
                batch.append(entry)
                size += entry.parcel.size
            if not lane:
                del self._lanes[key]
            return batch

    def _put_back(self, batch: Sequence[Entry]) -> None:
        with self._changed:
            lane = self._lanes.setdefault((batch[0].channel, batch[0].target), deque())
            lane.extendleft((0.0, entry) for entry in reversed(batch))

    def _drop_expired(self) -> None:
        # Their rows are another's by now: sending them here too would only be a repeat.
        now = time.monotonic()
        with self._changed:
            for key, lane in list(self._lanes.items()):
                while lane and lane[0][1].lease_ends < now:
                    lane.popleft()
                if not lane:
                    del self._lanes[key]

    def _send(self, batch: Sequence[Entry]) -> Sequence[SendFailure]:
        first = batch[0]
        try:
            return self._broker.send(first.channel, first.target, [entry.parcel for entry in batch])
        except BatchRefused as error:
            if len(batch) == 1:
                return [SendFailure(0, str(error), error.final, error.code)]
            failures = []
            for i, entry in enumerate(batch):
                failures += [replace(failure, index=i) for failure in self._send([entry])]
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
        except DatabaseUnavailable as error:
            log.warning("could not park a message; it is tried again", error=str(error), **known)
