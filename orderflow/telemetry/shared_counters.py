"""The sums over all processes of a service, including those without a port and those that have ended.

Each process adds its counts to its service's own database every few seconds. The process that serves `/metrics` reads
the sums, and adds the counts that it has not stored yet. Counts that a killed process had not stored are lost.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

import psycopg

from orderflow import metrics
from orderflow.database import Database
from orderflow.errors import DatabaseUnavailable

# In the order of the keys, so that processes that add at the same time can't deadlock.
_ADD: Final = """
INSERT INTO counters AS c (counter, value) SELECT * FROM unnest(%s::text[], %s::float[]) AS grown(k, v) ORDER BY k
ON CONFLICT (counter) DO UPDATE SET value = c.value + excluded.value
"""
_READ: Final = "SELECT counter, value FROM counters"


class Counters:
    """One process's part of its service's counters."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._handed_in: dict[str, float] = {}
        self._sums: dict[str, float] = {}

    def hand_in(self) -> None:
        """Stores what has been counted since the last call. Raises DatabaseUnavailable; the next call then stores
        it."""
        # Without the lock, a scrape between the statement and its record would count twice, and the next one less.
        with self._lock:
            counted = metrics.snapshot()
            grown = {k: n for k, v in counted.items() if (n := v - self._handed_in.get(k, 0.0))}
            if grown:
                self._database.query(_ADD, [list(grown), list(grown.values())])
                self._handed_in |= counted
                for key, n in grown.items():
                    self._sums[key] = self._sums.get(key, 0.0) + n

    def together(self) -> dict[str, float]:
        """The sums of all processes, by the keys of `metrics.snapshot`; the last known ones if the database is down."""
        with self._lock:
            # /readyz reports an unavailable database; a counter that decreased would look like a restart.
            with suppress(DatabaseUnavailable, psycopg.Error):
                self._sums = dict(self._database.query(_READ))
            found = dict(self._sums)
            for key, count in metrics.snapshot().items():
                found[key] = found.get(key, 0.0) + count - self._handed_in.get(key, 0.0)
            return found
