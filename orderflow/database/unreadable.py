"""Rows that this release can't read: they are put aside, counted, and looked at again later.

After a rollback a table can hold rows of a newer release: another workflow, bus, state or message. Whoever works
through a table reads its rows one by one; those that can't be read, or can't be worked on, get their next look pushed
in the same transaction, so that they never stand before the others again. A release that knows them handles them at
that look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import structlog

from orderflow.errors import UnreadableRow
from orderflow.metrics import Counts

log = structlog.get_logger(__name__)

ASIDE: Final = 300.0
"""Seconds until a row that was put aside is looked at again, at most: about as long as it waits after an upgrade. From
half of that on, at random, so that many don't come back at once."""

_REMEMBERED: Final = 10_000
"""Rows whose first failure a process remembers, so that each is logged once."""

unreadable: Final = Counts(
    "unreadable_rows", "Looks at rows that this release can't read or work on; each puts its row aside", "table"
)

_PUT_ASIDE: Final = """
UPDATE {table} SET {due} = now() + make_interval(secs => %s * (1 + random()) / 2) WHERE {key} = ANY(%s::uuid[])
"""

T = TypeVar("T")
Execute = Callable[[bytes, Sequence[Any]], object]
"""Runs a statement in the transaction that read the rows."""


class PutAside:
    """What can't be read in one table. Safe to use from several threads.

    `key` is the table's key, a UUID, and the first column of every row that is read; `due` the column that says when a
    row is looked at. All three names are the caller's own.
    """

    def __init__(self, table: str, key: str, due: str) -> None:
        self._table = table
        self._statement = _PUT_ASIDE.format(table=table, key=key, due=due).encode()
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def read(self, rows: Sequence[Sequence[Any]], decode: Callable[[Sequence[Any]], T], execute: Execute) -> list[T]:
        """The rows that `decode` can read; the others are put aside."""
        found: list[T] = []
        odd: dict[str, Exception] = {}
        for row in rows:
            try:
                found.append(decode(row))
            except Exception as error:  # noqa: BLE001 - a newer release's row can fail in any way
                odd[str(row[0])] = error
        self.put(odd, execute)
        return found

    def put(self, odd: Mapping[str, Exception], execute: Execute) -> None:
        """Puts rows aside, by their keys, with what went wrong."""
        if not odd:
            return
        execute(self._statement, [ASIDE, list(odd)])
        unreadable[self._table,] += len(odd)
        with self._lock:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            new = odd.keys() - self._known
            self._known |= new
        if new:
            first = min(new)
            log.error("rows can't be read by this release and are put aside; the others are handled",
                      table=self._table, rows=len(new), first=first, exc_info=odd[first])  # fmt: skip


def read_one(row: Sequence[Any], decode: Callable[[Sequence[Any]], T]) -> T:
    """One row that a message or a request needs. Raises UnreadableRow: whoever needs it waits for a newer release."""
    try:
        return decode(row)
    except Exception as error:
        raise UnreadableRow(f"the row of {row[0]} is not of this release: {error!r}"[:500]) from error
