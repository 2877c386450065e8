"""Checks something that may hang: one check at a time, in a thread of its own, and callers wait only for a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Looks(Generic[T]):
    """`look` runs when a caller asks and no check is running. Safe to use from several threads.

    All callers during a check share it, and none waits longer than `patience` seconds after its start."""

    def __init__(self, name: str, look: Callable[[], T], patience: float) -> None:
        self._name = name
        self._look = look
        self._patience = patience
        self._lock = threading.Lock()
        self._began = 0.0
        self._done = threading.Event()
        self._done.set()
        self._found: list[T] = []

    def ask(self) -> T | None:
        """The result of the check; None if it takes too long, or failed."""
        with self._lock:
            if self._done.is_set():
                self._done, self._found, self._began = threading.Event(), [], time.monotonic()
                threading.Thread(target=self._run, args=(self._done, self._found), name=self._name, daemon=True).start()
            done, found, began = self._done, self._found, self._began
        done.wait(max(0.0, began + self._patience - time.monotonic()))
        return found[0] if found else None

    def _run(self, done: threading.Event, found: list[T]) -> None:
        try:
            found.append(self._look())
        finally:
            done.set()
