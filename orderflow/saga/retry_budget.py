"""When an owner resends what got no answer, and how often in total.

Times alone feed an overload: a service that is behind gets everything three times more, each with all that it causes,
and stays behind (Bronson et al., Metastable Failures in Distributed Systems, HotOS 2021). So resends come out of a
budget, as in Finagle (https://twitter.github.io/finagle/guide/Clients.html#retries) and in gRPC.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final

from orderflow.metrics import Counts
from orderflow.settings import Settings

withheld: Final = Counts("resends_withheld", "Messages due again that waited for the retry budget", "service")

FAR: Final = 10 * 365 * 86400.0
"""Seconds until an order that waits for an operator is looked at."""

_SHARE: Final = 1 / 40
"""For each progress of an order. In choreography an order makes progress three times, and a resend makes its whole
chain answer again: so resends stay below a tenth of the traffic."""

_REWARD: Final = 2.0
"""For an order that made progress by a resend: after a real loss, each resend that helps pays for two more, as in TCP's
slow start."""

_REFILL: Final = 0.01
"""Of the whole budget, per second."""

PUT_OFF: Final = 2_000
"""Orders that a look puts off at most, before it takes what is due."""


class RetryBudget:
    """How many messages may be resent. Safe to use from several threads.

    Begins with `size`, and never holds more. A backlog uses it up, as its orders progress by their first messages;
    where messages are lost, a resend earns more than it costs.
    """

    def __init__(self, service: str, size: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._size = self._left = float(size)
        self._now = now
        self._since = now()
        self._lock = threading.Lock()

    def record_progress(self, *, helped: bool) -> None:
        """Adds for an order with new facts; `helped`: they answer a resend."""
        with self._lock:
            self._left = min(self._size, self._left + (_REWARD if helped else _SHARE))

    def take(self) -> bool:
        """Whether one message may be resent: it is taken off the budget, or else counted as withheld."""
        with self._lock:
            now = self._now()
            self._left = min(self._size, self._left + (now - self._since) * _REFILL * self._size)
            self._since = now
            enough = self._left >= 1
            self._left -= enough
        if not enough:
            withheld[self._service,] += 1
        return enough


def next_look(settings: Settings, waited: float, sends: int) -> float:
    """Seconds until its owner looks after an open order again, after so many resends, `waited` seconds after its last
    progress: at the next of its times, not at once again where that is over, and at its deadline at the latest."""
    times = settings.resend_after
    until_deadline = settings.undo_after - waited
    if until_deadline <= 0:
        return times[0]
    if sends >= len(times):
        return until_deadline
    return min(until_deadline, max(times[0], times[sends] * random.uniform(0.9, 1.0) - waited))
