"""Sends what the outbox holds, up to ten messages of one destination a call; each destination is a lane of its own.

What was staged is handed over in memory after its commit. What finds no room there, or a destination that takes
nothing now, waits in the database, and is pulled as soon as there is room: until a claim comes back short.

A message that was staged alone, while nothing was being sent, is sent at once. Others are a sign of load: they wait a
moment for company (`messaging.pace`), because fewer and fuller calls are what makes room for more orders, here, at the
broker, and where they are received.
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
"""Seconds until a database that is unavailable is asked again."""


class Publisher:
    """The process's only way out. `run` pulls, and starts and ends the lanes' threads; `step` does all of it once."""

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
        """Those of the destinations that this process has sent to so far."""
        return list(self._lanes.values())

    @property
    def waiting(self) -> int:
        """How many messages wait in memory."""
        return sum(lane.waiting for lane in self.lanes)

    def takes(self, channel: Channel, target: str) -> bool:
        """Whether what is about to be staged for this destination can be sent from memory."""
        lane = self._lanes.get((channel, target))
        return lane.takes if lane else not self._stopping

    def hand_over(self, entries: Sequence[Entry]) -> None:
        """Takes messages that were staged. Never blocks."""
        now = time.monotonic()
        alone = len(entries) == 1 and not any(lane.pace.busy(now) for lane in self.lanes)
        found: dict[tuple[Channel, str], list[Entry]] = {}
        for entry in entries:
            found.setdefault((entry.channel, entry.target), []).append(entry)
        for key, some in found.items():
            self._lane(*key).hand_over(some, now, alone=alone)

    def relay(self) -> int:
        """Finds destinations for which something waits in the database: the messages of a process that died, or those
        that another has no room for. Returns how many. Raises DatabaseUnavailable."""
        found = self._outbox.backlog.destinations()
        for channel, target in found:
            self._lane(channel, target).fall_behind()
        self._wake.set()
        return len(found)

    def pull(self, now: float) -> int:
        """Claims for every lane that has room; how many messages. Raises DatabaseUnavailable."""
        with self._pulling:
            return sum(lane.pull(now) for lane in self.lanes)

    def run(self) -> None:
        """Works until `stop`; ends when every lane has sent what waits, for as long as its destination takes it."""
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
                # Whatever it is, without this thread nothing would leave the database any more.
                log.exception("claiming messages failed; retrying")
                time.sleep(_PAUSE)
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Lets `run` send what waits and return."""
        with self._lock:
            self._stopping = True
            for lane in self.lanes:
                lane.stop()
        self._wake.set()

    def step(self) -> bool:
        """Pulls, as if every retry time had come, and sends one batch of each lane, in this thread. Returns whether
        anything moved."""
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
