"""Limits the threads used by requests that may wait long for something other than their own database.

Microsoft's "Bulkhead" pattern: https://learn.microsoft.com/azure/architecture/patterns/bulkhead
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from flask import Flask, g, request

from orderflow.errors import Problem

_SHARE: Final = 4
"""All such requests together may use one in this many of a process's threads."""


def limit(app: Flask, threads: int, slow: Callable[[str], bool]) -> None:
    """Answers 503 at once to requests for `slow` endpoints while too many of them are in flight."""
    slots = threading.Semaphore(max(1, threads // _SHARE))

    @app.before_request
    def take() -> None:
        if request.endpoint is None or not slow(request.endpoint):
            return
        if not slots.acquire(blocking=False):
            detail = "too many requests wait for other parts already; nothing has happened, try again"
            raise Problem(503, "Service Unavailable", detail, headers={"Retry-After": "2"})
        g.slot = True

    @app.teardown_request
    def give_back(error: BaseException | None) -> None:
        if g.pop("slot", False):
            slots.release()
