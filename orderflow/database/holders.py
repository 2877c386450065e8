"""Which rows other transactions have locked, and for how long: distinguishes a long lock from many short ones.

The `xmax` of a locked row names the transaction that holds it. If two checks find the same one, it has held the row all
the time; if each check finds another, the row is in demand, and a transaction that waits in line gets it.
https://www.postgresql.org/docs/current/ddl-system-columns.html
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from orderflow.database import Database

HELD_AFTER: Final = 1.0
"""Seconds after which a row counts as held, and nobody waits for it. Orderflow's own transactions are shorter."""

_REMEMBERED: Final = 10_000
"""Maximum number of rows that a process remembers."""

_LOCKED: Final = """
WITH free AS (SELECT {key} FROM {table} WHERE {key} = ANY(%s::{type}[]) FOR UPDATE SKIP LOCKED)
SELECT {key}::text, xmax::text FROM {table} WHERE {key} = ANY(%s::{type}[]) AND {key} NOT IN (SELECT {key} FROM free)
"""


@dataclass(frozen=True, slots=True)
class Rows:
    """A table whose rows are locked by `key`, which is of `type` in SQL."""

    table: str
    key: str
    type: str = "uuid"


class Need(NamedTuple):
    """A row that must be locked to handle an order."""

    order_id: str
    rows: Rows
    key: str


class Locked(NamedTuple):
    """Orders that need a row which is locked elsewhere: `held` by one transaction for long, or only `in_demand`."""

    held: set[str]
    in_demand: set[str]


class Holders:
    """What one process has observed of its database's row locks. Safe to use from several threads."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._now = now
        self._seen: dict[tuple[str, str], tuple[str, float]] = {}
        """By table and key: the transaction that holds the row, and when that was first observed."""
        self._lock = threading.Lock()

    def look(self, needs: Iterable[Need]) -> Locked:
        """Those orders in `needs` that would have to wait. Waits for no row itself. Raises DatabaseUnavailable."""
        wanted: dict[Rows, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for order_id, rows, key in needs:
            wanted[rows][key].add(order_id)
        held, in_demand = set[str](), set[str]()
        for rows, orders in wanted.items():
            for key, since in self._locked(rows, sorted(orders)).items():
                (held if since >= HELD_AFTER else in_demand).update(orders[key])
        return Locked(held, in_demand - held)

    def _locked(self, rows: Rows, keys: list[str]) -> dict[str, float]:
        """The locked rows among `keys`, with the seconds for which the same transaction has been seen to hold each."""
        statement = _LOCKED.format(table=rows.table, key=rows.key, type=rows.type)
        holders: dict[str, str] = dict(self._database.query(statement, [keys, keys]))
        now = self._now()
        with self._lock:
            for key in keys:
                place, holder = (rows.table, key), holders.get(key)
                if holder is None:
                    self._seen.pop(place, None)
                elif self._seen.get(place, ("", 0.0))[0] != holder:
                    self._seen[place] = (holder, now)
            found = {key: now - self._seen[rows.table, key][1] for key in holders}
            if len(self._seen) > _REMEMBERED:
                self._seen.clear()
        return found
