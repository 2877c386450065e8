"""How far each service has progressed: the newest question that it has answered.

A queue is processed roughly in the order of its messages. So an unanswered question counts as lost only if another one,
asked clearly later, has been answered, or if the service answers nothing at all. Otherwise it waits behind a backlog:
to resend it would lengthen the backlog, and to give up would cancel a healthy order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf


class Answers:
    """The answers that the owner's processes have received. Safe to use from several threads.

    `later`: seconds after which a question counts as asked clearly later than another."""

    def __init__(self, later: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._later = later
        self._now = now
        self._known: dict[str, tuple[float, float]] = {}
        """By service: when the newest answered question was asked, and when the service last answered."""
        self._fresh: set[str] = set()
        self._lock = threading.Lock()

    def heard(self, service: str, waited: float) -> None:
        """Records an answer of `service` that advanced an order, which had waited for it for `waited` seconds."""
        self._merge(service, waited, 0.0)
        self._fresh.add(service)

    def least_wait(self, services: Sequence[str], silent_after: float) -> float:
        """Seconds after which an unanswered question to these services counts as lost; 0 if all of them have been
        silent for `silent_after` seconds."""
        now = self._now()
        with self._lock:
            known = [self._known[service] for service in services if service in self._known]
        return max((now - asked + self._later for asked, at in known if now - at < silent_after), default=0.0)

    def fresh(self) -> list[tuple[str, float, float]]:
        """What is new since the last call: service, seconds since the newest answered question, and since an answer."""
        now = self._now()
        with self._lock:
            fresh, self._fresh = self._fresh, set()
            return [(s, now - self._known[s][0], now - self._known[s][1]) for s in sorted(fresh)]

    def learn(self, known: Mapping[str, Sequence[float]]) -> None:
        """Adds what all processes know, by service: seconds since the newest answered question, and since an answer."""
        for service, (asked, answered) in known.items():
            self._merge(service, asked, answered)

    def _merge(self, service: str, asked_ago: float, answered_ago: float) -> None:
        now = self._now()
        with self._lock:
            asked, answered = self._known.get(service, (-inf, -inf))
            self._known[service] = max(asked, now - asked_ago), max(answered, now - answered_ago)
