"""Requests that may wait long for something else than their own database hold few threads at once.

Microsoft's "Bulkhead" pattern: https://learn.microsoft.com/azure/architecture/patterns/bulkhead
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from flask import Flask, g, request

from orderflow.errors import Problem

_SHARE: Final = 4
"""Of a process's threads, one in so many may be held by such requests, by all of them together."""


def limit(app: Flask, threads: int, slow: Callable[[str], bool]) -> None:
    """Answers 503 at once to requests for endpoints that are `slow` while enough others of them are under way."""
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
