"""What lies further ahead than anything is put off: the database's clock was ahead then, and has been set right since.

Nobody would come back to it for as long as that clock had been ahead; so it is due now. What was noted for a time that
has not come is taken for now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from orderflow.database import Database

log = structlog.get_logger(__name__)

TOLERANCE: Final = 60.0
"""Seconds by which a clock may be set back, and nothing needs to be done."""

_CHUNK: Final = 1_000

# In key order, as all who lock these rows; what is locked is being handled, and looked at again the next time.
_SET_RIGHT: Final = """
WITH ahead AS MATERIALIZED (
    SELECT {key} AS key FROM {table} WHERE {only} AND {when} > now() + make_interval(secs => %s)
    ORDER BY {key} LIMIT {chunk} FOR UPDATE SKIP LOCKED
)
UPDATE {table} SET {then} FROM ahead WHERE {table}.{key} = ahead.key RETURNING 1
"""


@dataclass(frozen=True, slots=True)
class Ahead:
    """Rows of a table, where `only` holds, that are set to `then` (SQL) if `when` lies ahead: a column that has an
    index, or of a small table. `noted`: it is never put off, and says when something was."""

    table: str
    key: str
    when: str
    then: str
    only: str = "true"
    noted: bool = False


def set_right(database: Database, rows: Sequence[Ahead], longest: float) -> int:
    """Sets right what lies ahead by more than `longest` seconds, the most that anything is put off; how many rows.

    Raises DatabaseUnavailable."""
    total = 0
    for ahead in rows:
        statement = _SET_RIGHT.format(
            key=ahead.key, table=ahead.table, only=ahead.only, when=ahead.when, then=ahead.then, chunk=_CHUNK
        )
        count = _CHUNK
        while count == _CHUNK:
            count = len(database.query(statement, [TOLERANCE if ahead.noted else longest + TOLERANCE]))
            total += count
            if count:
                log.warning(
                    "rows lay too far ahead, and are due now: the database's clock has been set back",
                    table=ahead.table,
                    rows=count,
                )
    return total
