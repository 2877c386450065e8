"""How far each service has come with what it was asked: the newest question that it has answered.

A queue is worked through about in the order of its messages. So a question without an answer is one that got lost only
where another, which was asked clearly later, has been answered; or where nobody is being answered at all. Otherwise it
waits behind a backlog: asking again would lengthen that, and giving up would cancel a healthy order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf


class Answers:
    """What the owner's processes have heard. Safe to use from several threads.

    `later`: seconds from which one question was asked clearly later than another."""

    def __init__(self, later: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._later = later
        self._now = now
        self._known: dict[str, tuple[float, float]] = {}
        """By service: when the newest question was asked that it has answered, and when it last answered any."""
        self._fresh: set[str] = set()
        self._lock = threading.Lock()

    def heard(self, service: str, waited: float) -> None:
        """An answer of `service` brought an order forward that had waited for it for so many seconds."""
        self._merge(service, waited, 0.0)
        self._fresh.add(service)

    def least_wait(self, services: Sequence[str], silent_after: float) -> float:
        """Seconds from which an unanswered question to these services is one that got lost; 0 if the slowest of them
        has been silent for `silent_after` seconds."""
        now = self._now()
        with self._lock:
            known = [self._known[service] for service in services if service in self._known]
        return max((now - asked + self._later for asked, at in known if now - at < silent_after), default=0.0)

    def fresh(self) -> list[tuple[str, float, float]]:
        """What was heard since this was last asked: service, seconds since the newest question, and since an answer."""
        now = self._now()
        with self._lock:
            fresh, self._fresh = self._fresh, set()
            return [(s, now - self._known[s][0], now - self._known[s][1]) for s in sorted(fresh)]

    def learn(self, known: Mapping[str, Sequence[float]]) -> None:
        """What all processes have heard: seconds since the newest question, and since an answer, by service."""
        for service, (asked, answered) in known.items():
            self._merge(service, asked, answered)

    def _merge(self, service: str, asked_ago: float, answered_ago: float) -> None:
        now = self._now()
        with self._lock:
            asked, answered = self._known.get(service, (-inf, -inf))
            self._known[service] = max(asked, now - asked_ago), max(answered, now - answered_ago)
