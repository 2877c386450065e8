"""Threads that a test starts, and holds at a point."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Gate:
    """Stops a thread at a point until it is told to go on."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self._open = threading.Event()

    def pass_through(self) -> None:
        """Waits, as a thread that arrives."""
        self.arrived.set()
        assert self._open.wait(10), "nobody opened the gate"

    def wait(self) -> None:
        """Waits for a thread to arrive."""
        assert self.arrived.wait(10), "nobody arrived at the gate"

    def open(self) -> None:
        """Lets it go on."""
        self._open.set()


def in_background(job: Callable[[], Any]) -> Future[Any]:
    """Runs `job` in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
