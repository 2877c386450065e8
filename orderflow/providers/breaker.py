"""A circuit breaker: while a provider is unreachable, only an occasional probe calls it.

Source of the pattern: M. Nygard, "Release It!", 2nd edition, 2018, chapter 5.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Opens after `subjects` different subjects in a row without an answer, so one bad subject never opens it; any
    answer closes it. While it is open, one call every `probe_every` seconds passes as a probe. Safe to use from several
    threads.
    """

    def __init__(self, subjects: int, probe_every: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._subjects = subjects
        self._probe_every = probe_every
        self.now = now
        self._failed: set[str] = set()
        self._probe_at: float | None = None
        """When the next probe may pass; None while the breaker is closed."""
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        """Whether only probes pass."""
        return self._probe_at is not None

    def allows(self) -> bool:
        """Whether a call may be made now. While it is open, True makes the caller the probe."""
        if self._probe_at is None:
            return True
        with self._lock:
            if self._probe_at is None:
                return True
            if self.now() < self._probe_at:
                return False
            self._probe_at = self.now() + self._probe_every
            return True

    def room(self, most: int) -> int:
        """How many of `most` calls are worth preparing now: all, one for a probe, or none."""
        at = self._probe_at
        if at is None:
            return most
        return min(most, 1) if self.now() >= at else 0

    def succeeded(self) -> bool:
        """Records an answer. Returns whether that closed the breaker."""
        if not self._failed:
            return False
        with self._lock:
            self._failed.clear()
            closed = self._probe_at is not None
            self._probe_at = None
            return closed

    def failed(self, subject: str) -> bool:
        """Records a call without an answer, for `subject`. Returns whether that opened the breaker."""
        with self._lock:
            if self._probe_at is not None:
                return False
            self._failed.add(subject)
            if len(self._failed) < self._subjects:
                return False
            self._probe_at = self.now() + self._probe_every
            return True
