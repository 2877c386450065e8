"""Rows that this release can't read: they are postponed, counted, and checked again later.

After a rollback, a table can contain rows of a newer release, with an unknown workflow, bus, state or message. Whoever
works through a table reads its rows one by one. Rows that can't be read or handled are postponed in the same
transaction, so that they never delay the others. A release that knows them handles them when they are due again.
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
"""Maximum seconds until a postponed row is checked again, and so about how long it waits after an upgrade. The time is
random, from half of this on, so that not all rows are due at once."""

_REMEMBERED: Final = 10_000
"""Maximum number of rows whose failure a process remembers, so that each is logged only once."""

unreadable: Final = Counts(
    "unreadable_rows", "Looks at rows that this release can't read or work on; each puts its row aside", "table"
)

_PUT_ASIDE: Final = """
UPDATE {table} SET {due} = now() + make_interval(secs => %s * (1 + random()) / 2) WHERE {key} = ANY(%s::uuid[])
"""

T = TypeVar("T")
Execute = Callable[[bytes, Sequence[Any]], object]
"""Runs a statement in the transaction that has read the rows."""


class PutAside:
    """Postpones the unreadable rows of one table. Safe to use from several threads.

    `key` is the table's key, a UUID, and the first column of every row that is read. `due` is the column that says when
    a row is due. All three names come from code, never from outside.
    """

    def __init__(self, table: str, key: str, due: str) -> None:
        self._table = table
        self._statement = _PUT_ASIDE.format(table=table, key=key, due=due).encode()
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def read(self, rows: Sequence[Sequence[Any]], decode: Callable[[Sequence[Any]], T], execute: Execute) -> list[T]:
        """The rows that `decode` can read; the others are postponed."""
        found: list[T] = []
        odd: dict[str, Exception] = {}
        for row in rows:
            try:
                found.append(decode(row))
            except Exception as error:  # noqa: BLE001 - a row of a newer release can fail in any way
                odd[str(row[0])] = error
        self.put(odd, execute)
        return found

    def put(self, odd: Mapping[str, Exception], execute: Execute) -> None:
        """Postpones rows, given by key and error."""
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
            log.error("this release can't read some rows; they are postponed, the others are handled",
                      table=self._table, rows=len(new), first=first, exc_info=odd[first])  # fmt: skip


def read_one(row: Sequence[Any], decode: Callable[[Sequence[Any]], T]) -> T:
    """One row that a message or a request needs. Raises UnreadableRow: the caller must wait for a newer release."""
    try:
        return decode(row)
    except Exception as error:
        raise UnreadableRow(f"the row of {row[0]} is not of this release: {error!r}"[:500]) from error
