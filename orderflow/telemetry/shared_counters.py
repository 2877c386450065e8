"""What all processes of a service have counted together, those without a port and those that have ended too.

Each process adds what it counted to its service's own database every few seconds; whoever is asked for `/metrics`
reads the sums, and adds what it hasn't handed in yet. What a killed process had not handed in is lost.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

import psycopg

from orderflow import metrics
from orderflow.database import Database
from orderflow.errors import DatabaseUnavailable

# In order of the keys: processes that add at the same time can't deadlock.
_ADD: Final = """
INSERT INTO counters AS c (counter, value) SELECT * FROM unnest(%s::text[], %s::float[]) AS grown(k, v) ORDER BY k
ON CONFLICT (counter) DO UPDATE SET value = c.value + excluded.value
"""
_READ: Final = "SELECT counter, value FROM counters"


class Counters:
    """One process's part in the counters of its service."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._handed_in: dict[str, float] = {}
        self._sums: dict[str, float] = {}

    def hand_in(self) -> None:
        """Adds what has been counted since the last time. Raises DatabaseUnavailable; then it is the next time's."""
        # A scrape between the statement and its note would count twice, and the next one less: hence the lock.
        with self._lock:
            counted = metrics.snapshot()
            grown = {k: n for k, v in counted.items() if (n := v - self._handed_in.get(k, 0.0))}
            if grown:
                self._database.query(_ADD, [list(grown), list(grown.values())])
                self._handed_in |= counted
                for key, n in grown.items():
                    self._sums[key] = self._sums.get(key, 0.0) + n

    def together(self) -> dict[str, float]:
        """The sums of all processes, by the keys of `metrics.snapshot`; the last known ones without the database."""
        with self._lock:
            # /readyz says that the database is away; a counter that went back would look like a restart.
            with suppress(DatabaseUnavailable, psycopg.Error):
                self._sums = dict(self._database.query(_READ))
            found = dict(self._sums)
            for key, count in metrics.snapshot().items():
                found[key] = found.get(key, 0.0) + count - self._handed_in.get(key, 0.0)
            return found
