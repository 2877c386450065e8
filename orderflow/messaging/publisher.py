"""Sends the outbox's messages, up to ten per call to one destination. Each destination has a lane of its own.

Staged messages are passed on in memory after their commit. Those that find no room there, or whose destination is
unavailable, wait in the database and are pulled as soon as there is room, until a claim returns fewer than it asked
for.

A message that was staged alone, while nothing was being sent, is sent at once. Several messages are a sign of load:
they wait a moment for others (`messaging.pace`), because fewer and fuller calls leave capacity for more orders: here,
at the broker, and at the receivers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from math import inf
from typing import Final

import structlog

from orderflow.broker import Broker
from orderflow.errors import DatabaseUnavailable
from orderflow.messaging.backlog import Entry
from orderflow.messaging.lane import Lane
from orderflow.messaging.outbox import Outbox
from orderflow.routing import Channel

log = structlog.get_logger(__name__)

_PAUSE: Final = 0.5
"""Seconds until an unavailable database is tried again."""


class Publisher:
    """Sends a process's messages. `run` pulls, and starts and ends the lanes' threads; `step` does all of it once."""

    def __init__(self, outbox: Outbox, broker: Broker) -> None:
        self._outbox = outbox
        self._broker = broker
        self._lanes: dict[tuple[Channel, str], Lane] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._pulling = threading.Lock()
        self._wake = threading.Event()
        self._running = False
        self._stopping = False
        outbox.on_staged = self.hand_over
        outbox.takes = self.takes

    @property
    def lanes(self) -> Sequence[Lane]:
        """The lanes of the destinations that this process has sent to so far."""
        return list(self._lanes.values())

    @property
    def waiting(self) -> int:
        """How many messages wait in memory."""
        return sum(lane.waiting for lane in self.lanes)

    def takes(self, channel: Channel, target: str) -> bool:
        """Whether messages that are about to be staged for this destination can be sent from memory."""
        lane = self._lanes.get((channel, target))
        return lane.takes if lane else not self._stopping

    def hand_over(self, entries: Sequence[Entry]) -> None:
        """Takes staged messages. Never blocks."""
        now = time.monotonic()
        alone = len(entries) == 1 and not any(lane.pace.busy(now) for lane in self.lanes)
        found: dict[tuple[Channel, str], list[Entry]] = {}
        for entry in entries:
            found.setdefault((entry.channel, entry.target), []).append(entry)
        for key, some in found.items():
            self._lane(*key).hand_over(some, now, alone=alone)

    def relay(self) -> int:
        """Finds destinations with messages in the database: from a process that died, or that had no room for them.
        Returns their number. Raises DatabaseUnavailable."""
        found = self._outbox.backlog.destinations()
        for channel, target in found:
            self._lane(channel, target).fall_behind()
        self._wake.set()
        return len(found)

    def pull(self, now: float) -> int:
        """Claims messages for every lane that has room. Returns their number. Raises DatabaseUnavailable."""
        with self._pulling:
            return sum(lane.pull(now) for lane in self.lanes)

    def run(self) -> None:
        """Works until `stop`; ends when every lane has sent its messages, or its destination accepts no more."""
        with self._lock:
            self._running = True
            for lane in self.lanes:
                self._start(lane)
        while not self._stopping:
            now = time.monotonic()
            pause = min((lane.pull_in(now) for lane in self.lanes), default=inf)
            if pause > 0:
                self._wake.wait(None if pause == inf else pause)
            self._wake.clear()
            try:
                self.pull(time.monotonic())
            except DatabaseUnavailable as error:
                log.warning("database unavailable; messages wait in the outbox", error=str(error))
                time.sleep(_PAUSE)
            except Exception:
                # The thread must continue after any error: without it, nothing would leave the database any more.
                log.exception("claiming messages failed; retrying")
                time.sleep(_PAUSE)
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Lets `run` send the remaining messages and return."""
        with self._lock:
            self._stopping = True
            for lane in self.lanes:
                lane.stop()
        self._wake.set()

    def step(self) -> bool:
        """Pulls as if every retry time had come, and sends one batch per lane, in this thread. Returns whether any
        message moved."""
        pulled = self.pull(inf)
        return bool(sum([lane.step() for lane in self.lanes]) + pulled)

    def _lane(self, channel: Channel, target: str) -> Lane:
        lane = self._lanes.get((channel, target))
        if lane is None:
            with self._lock:
                lane = self._lanes.get((channel, target))
                if lane is None:
                    lane = Lane(channel, target, self._outbox, self._broker, self._wake.set)
                    self._lanes[channel, target] = lane
                    if self._running:
                        self._start(lane)
        return lane

    def _start(self, lane: Lane) -> None:
        if self._stopping:
            lane.stop()
            return
        thread = threading.Thread(target=lane.run, name=f"lane-{lane.channel}-{lane.target}", daemon=True)
        self._threads.append(thread)
        thread.start()
