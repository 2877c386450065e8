"""Removes rows after their retention time: drops partitions, and deletes rows of tables without partitions.

It runs in a thread of its own (`orderflow.service`), so nothing that has a deadline waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from orderflow.database import Database, partitions
from orderflow.database.partitions import Partitioned
from orderflow.errors import Transient

log = structlog.get_logger(__name__)

_CHUNK: Final = 5_000
"""Rows that one statement deletes. A single statement for a day's rows could exceed the statement time-out, be rolled
back, and have even more rows the next time."""

_DELETE: Final = """
WITH alone AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('{table}')) AS yes), gone AS (
    DELETE FROM {table} WHERE (SELECT yes FROM alone) AND ctid = ANY(ARRAY(
        SELECT ctid FROM {table} WHERE {only} AND {at} < now() - make_interval(secs => %s) LIMIT {chunk}
    )) RETURNING 1
)
SELECT count(*) FROM gone
"""


@dataclass(frozen=True, slots=True)
class Deleted:
    """A table without partitions. Its rows, where `only` holds, are deleted `keep` seconds after `at` (a column with an
    index, or of a small table)."""

    table: str
    at: str
    keep: float
    only: str = "true"


Kept = Partitioned | Deleted


class Retention:
    """How long one database keeps the rows of each of its tables."""

    def __init__(self, database: Database, kept: Sequence[Kept]) -> None:
        self._database = database
        self._kept = kept

    def run(self, every: float) -> bool:
        """Removes what is due, and makes partitions in advance. Returns whether everything succeeded. `every`: seconds
        until the next call. Safe to call from several processes at once."""
        done = [self._keep(kept, every) for kept in self._kept]
        return all(done)

    def _keep(self, kept: Kept, every: float) -> bool:
        try:
            if isinstance(kept, Deleted):
                forget(self._database, kept)
            else:
                partitions.keep_up(self._database, kept, every)
        except Transient as error:
            log.warning("old rows are kept for now, and forgotten later", table=kept.table, error=str(error))
            return False
        return True


def forget(database: Database, kept: Deleted) -> int:
    """Deletes old rows, some thousand per transaction, and returns their number. Stops if another process is doing it.

    Raises DatabaseUnavailable."""
    statement = _DELETE.format(table=kept.table, only=kept.only, at=kept.at, chunk=_CHUNK)
    total = 0
    while True:
        count = int(database.query(statement, [kept.keep])[0][0])
        total += count
        if count < _CHUNK:
            return total
