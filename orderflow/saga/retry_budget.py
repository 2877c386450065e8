"""When an owner resends a message without an answer, and how many resends it may make in all.

Timers alone make an overload worse: a service that falls behind gets every message three more times, each with all that
it causes, and stays behind (Bronson et al., Metastable Failures in Distributed Systems, HotOS 2021). So resends come
out of a budget, as in Finagle (https://twitter.github.io/finagle/guide/Clients.html#retries) and in gRPC.
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
"""Seconds until an order that waits for an operator is checked."""

_SHARE: Final = 1 / 40
"""For each progress of an order. In choreography an order makes progress three times, and a resend makes its whole
chain answer again: so resends stay below a tenth of the traffic."""

_REWARD: Final = 2.0
"""For an order that made progress by a resend: after a real loss, each resend that helps pays for two more, as in TCP's
slow start."""

_REFILL: Final = 0.01
"""Of the whole budget, per second."""

PUT_OFF: Final = 2_000
"""Maximum number of orders whose `look_at` a check moves before it handles what is due."""


class RetryBudget:
    """How many messages may be resent. Safe to use from several threads.

    It begins with `size`, and never holds more. A backlog uses it up, because its orders advance by the first messages;
    if messages are lost, resends earn more than they cost.
    """

    def __init__(self, service: str, size: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._size = self._left = float(size)
        self._now = now
        self._since = now()
        self._lock = threading.Lock()

    def record_progress(self, *, helped: bool) -> None:
        """Adds to the budget for an order with new facts; `helped`: they answer a resend."""
        with self._lock:
            self._left = min(self._size, self._left + (_REWARD if helped else _SHARE))

    def take(self) -> bool:
        """Whether one message may be resent. If so, it is taken from the budget; if not, it is counted as withheld."""
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
    """Seconds until its owner checks an open order again, after `sends` resends and `waited` seconds without progress:
    at its next resend time, never again at once if that has passed, and at its deadline at the latest."""
    times = settings.resend_after
    until_deadline = settings.undo_after - waited
    if until_deadline <= 0:
        return times[0]
    if sends >= len(times):
        return until_deadline
    return min(until_deadline, max(times[0], times[sends] * random.uniform(0.9, 1.0) - waited))
