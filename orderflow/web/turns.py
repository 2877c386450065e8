"""Requests with the same idempotency key take turns within a process, so that they wait without a database connection,
and only a limited number of threads wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from orderflow.idempotency import WAIT, Key, in_progress

_BRIEF: Final = 0.5
"""Seconds that a request waits for its turn if half of the threads are waiting already."""


class _Turn:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.since = time.monotonic()
        """When the current request got its turn."""
        self.users = 0


class Turns:
    """The requests with a key in one process. `threads`: how many serve requests.

    The wait counts from the start of the current request: if that hangs, requests with the same key block their threads
    once, for at most `WAIT` seconds, however often they are repeated. In other processes they wait for the key's
    row."""

    def __init__(self, threads: int) -> None:
        self._guard = threading.Lock()
        self._turns: dict[tuple[bytes, str], _Turn] = {}
        self._patient = threading.Semaphore(max(1, threads // 2))

    @contextmanager
    def take(self, key: Key) -> Iterator[None]:
        """Waits for the key's turn, and holds it in the block. Raises Problem (503) if that takes too long."""
        name = (key.scope, key.value)
        with self._guard:
            turn = self._turns.setdefault(name, _Turn())
            turn.users += 1
        try:
            if not (turn.lock.acquire(blocking=False) or self._wait(turn)):
                raise in_progress()
            try:
                turn.since = time.monotonic()
                yield
            finally:
                turn.lock.release()
        finally:
            with self._guard:
                turn.users -= 1
                if not turn.users:
                    del self._turns[name]

    def _wait(self, turn: _Turn) -> bool:
        patient = self._patient.acquire(blocking=False)
        try:
            ends = turn.since + (WAIT if patient else _BRIEF)
            return turn.lock.acquire(timeout=max(0.0, ends - time.monotonic()))
        finally:
            if patient:
                self._patient.release()
