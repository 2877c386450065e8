"""Repairs rows whose due time is too far ahead: the database's clock was ahead, and has been corrected since.

Without this, nobody would return to such rows for as long as that clock had been ahead; so they become due now. A
recorded time that lies in the future is treated as now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from orderflow.database import Database

log = structlog.get_logger(__name__)

TOLERANCE: Final = 60.0
"""Seconds by which a clock may be set back without any repair."""

_CHUNK: Final = 1_000

# Locks in key order, as every statement on these rows does. Locked rows are being handled; the next run checks them.
_SET_RIGHT: Final = """
WITH ahead AS MATERIALIZED (
    SELECT {key} AS key FROM {table} WHERE {only} AND {when} > now() + make_interval(secs => %s)
    ORDER BY {key} LIMIT {chunk} FOR UPDATE SKIP LOCKED
)
UPDATE {table} SET {then} FROM ahead WHERE {table}.{key} = ahead.key RETURNING 1
"""


@dataclass(frozen=True, slots=True)
class Ahead:
    """Rows of a table, where `only` holds, that are set to `then` (SQL) if `when` lies ahead. `when` is a column with
    an index, or of a small table. `noted`: the column records when something happened, so it is never in the future."""

    table: str
    key: str
    when: str
    then: str
    only: str = "true"
    noted: bool = False


def set_right(database: Database, rows: Sequence[Ahead], longest: float) -> int:
    """Repairs rows whose time lies ahead by more than `longest` seconds, the longest delay that anything is given.
    Returns the number of rows.

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
                    "rows were due too far in the future and are due now: the database's clock has been set back",
                    table=ahead.table,
                    rows=count,
                )
    return total
