"""Runs a service without a port, for messages and deadlines only. Run more of these to scale."""

from __future__ import annotations

import signal
import threading
from typing import Final

import structlog

from orderflow import failpoints
from orderflow.serve.process import Running
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

_GRACE: Final = 8.0
"""Seconds to finish the messages in flight."""


def run(name: str, settings: Settings, *, migrated: bool) -> None:
    """Works until SIGTERM or SIGINT."""
    asked_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked_to_stop.set())
    if settings.crash_at:
        failpoints.arm_crash(settings.crash_at)
    running = Running(name, settings, migrated=migrated)
    asked_to_stop.wait()
    running.stop(_GRACE)
    log.info("stopped")
