"""How many dead letters there are, for `/metrics`: asked for when somebody scrapes, and then not again for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from orderflow.broker import DeadLetterQueue
from orderflow.errors import OrderflowError

log = structlog.get_logger(__name__)

_GOOD_FOR: Final = 30.0
"""Seconds that an answer serves; a call a queue in that time, however many scrape."""

_PATIENCE: Final = 1.0
"""Seconds that a scrape waits for the broker; one that is away must not hold up the other metrics."""


class Depths:
    """The depths of some queues. Asks in a thread of its own, one at a time."""

    def __init__(self, queues: Sequence[DeadLetterQueue]) -> None:
        self._queues = queues
        self._lock = threading.Lock()
        self._known: Mapping[str, int] = {}
        self._asked_at = float("-inf")
        self._asking: threading.Thread | None = None

    def read(self) -> Mapping[str, int]:
        """By queue, at most half a minute old; empty while the broker does not answer."""
        with self._lock:
            idle = self._asking is None or not self._asking.is_alive()
            if idle and time.monotonic() - self._asked_at > _GOOD_FOR:
                self._asked_at = time.monotonic()
                self._asking = threading.Thread(target=self._ask, name="dlq-depths", daemon=True)
                self._asking.start()
            asking = self._asking
        if asking:
            asking.join(_PATIENCE)
        return self._known

    def _ask(self) -> None:
        try:
            self._known = {queue.name: queue.depth() for queue in self._queues}
        except OrderflowError as error:
            self._known = {}  # better no value than one that may long be wrong
            log.info("the depth of the dead-letter queues is not known", error=str(error))
