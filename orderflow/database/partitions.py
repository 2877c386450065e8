"""Tables that grow are partitioned by time (PostgreSQL's declarative partitions); what is old is dropped as a whole.

The partition key is a UUIDv7, whose first 48 bits are the time it was minted (RFC 9562, 5.7), or a time. A row that no
partition takes (an id that is no UUIDv7, a clock that is wrong, partitions that could not be made in time) goes to the
table's DEFAULT partition, so that no insert ever fails for want of one.
https://www.postgresql.org/docs/current/ddl-partitioning.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from orderflow import clock
from orderflow.database import Connection, Database

_LOCK: Final = 4_210_002
"""An advisory lock: one process at a time changes partitions."""

_LOCK_TIMEOUT: Final = "200ms"
"""Whoever waits for a table's exclusive lock holds up all others that come after it: so not for as long as their own
time-out. Behind a long reader (pg_dump) it fails, and is tried again later: partitions are made far ahead, and dropping
can wait."""

_PARTS: Final = 14
"""Partitions in the time that rows are kept: a day each of the inbox's fourteen."""

_AHEAD: Final = 2
"""Partitions that are made ahead."""

BUSINESS: Final = 30 * 86400.0
"""Seconds that a partition of business rows (orders, sagas, reservations, intents) spans. They are never dropped: keys
and tombstones don't expire. But what ended long ago is no work for vacuum, and the indexes in use stay small."""

_BOUND: Final = re.compile(r"FROM \('?([^')]+)'?\) TO \('?([^')]+)'?\)")
_EXISTING: Final = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = %s::regclass
"""


@dataclass(frozen=True, slots=True)
class Partitioned:
    """A table that is partitioned by `key`: a UUIDv7 where `by_id`, else a time. `keep`: seconds until a partition is
    dropped, None never; `width`: seconds of one partition, by default a fourteenth of `keep`. `storage`: the
    parameters of each partition, as a partitioned table can't have any."""

    table: str
    key: str
    by_id: bool
    keep: float | None
    width: float = 0.0
    storage: str = ""

    @property
    def seconds(self) -> float:
        """What one partition spans."""
        return self.width or max(1.0, round((self.keep or 0.0) / _PARTS))

    def literal(self, seconds: float) -> str:
        """A bound, as SQL: seconds since 1970, UTC."""
        return f"'{clock.first_id(seconds)}'" if self.by_id else f"'{datetime.fromtimestamp(seconds, UTC)}'"

    def read(self, bound: str) -> float:
        """Seconds since 1970 of a bound as PostgreSQL prints it; -infinity for MINVALUE."""
        if bound == "MINVALUE":
            return float("-inf")
        return clock.seconds_of(bound) if self.by_id else datetime.fromisoformat(bound).timestamp()


class _Part(NamedTuple):
    """A partition for keys from `lower` up to (not including) `upper`."""

    lower: float
    upper: float
    name: str


def keep_up(database: Database, table: Partitioned, every: float) -> int:
    """Makes the partitions of the time ahead, and drops those whose rows are all older than they are kept; how many
    changes were made. `every`: seconds until it is called again. Safe from several processes at once.

    Raises DatabaseUnavailable where a long transaction holds the table: then this must be tried again later."""
    [(now,)] = database.query("SELECT extract(epoch FROM now())::float8")
    parts = existing(database, table)
    changes = 0
    for part in _missing(table, parts, now, every):
        if not _change(database, _creation(table, part), new=part.name):
            return changes  # another process makes the rest
        changes += 1
    for part in parts:
        if table.keep is not None and part.upper <= now - table.keep:
            changes += _change(database, [f"DROP TABLE IF EXISTS {part.name}"])
    return changes


def existing(database: Database, table: Partitioned) -> list[_Part]:
    """The partitions of a table, oldest first, without DEFAULT."""
    found = []
    for name, bound in database.query(_EXISTING, [table.table]):
        if match := _BOUND.search(bound):
            found.append(_Part(table.read(match[1]), table.read(match[2]), name))
    return sorted(found)


def _missing(table: Partitioned, parts: Sequence[_Part], now: float, every: float) -> list[_Part]:
    """From now until well after the next call, whatever has none: gaps, too, and where the width was another."""
    width, missing = table.seconds, []
    begins = now // width * width
    while begins < now + _AHEAD * max(width, every):
        if there := next((part for part in parts if part.lower <= begins < part.upper), None):
            begins = there.upper
            continue
        ends = min([begins + width, *(part.lower for part in parts if part.lower > begins)])
        missing.append(_Part(begins, ends, f"{table.table}_{datetime.fromtimestamp(begins, UTC):%Y%m%d%H%M%S}"))
        begins = ends
    return missing


def _creation(table: Partitioned, part: _Part) -> list[str]:
    """Attached rather than created in place: that takes no exclusive lock on the whole table, only on DEFAULT, whose
    rows of that time move."""
    lower, upper = table.literal(part.lower), table.literal(part.upper)
    storage = f" WITH ({table.storage})" if table.storage else ""
    default = f"{table.table}_default"
    return [
        f"CREATE TABLE {part.name} (LIKE {table.table} INCLUDING ALL EXCLUDING IDENTITY){storage}",
        f"LOCK TABLE ONLY {table.table} IN SHARE UPDATE EXCLUSIVE MODE",
        f"LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE",
        f"""WITH early AS (DELETE FROM {default} WHERE {table.key} >= {lower} AND {table.key} < {upper} RETURNING *)
            INSERT INTO {part.name} SELECT * FROM early""",  # noqa: S608
        f"ALTER TABLE {table.table} ATTACH PARTITION {part.name} FOR VALUES FROM ({lower}) TO ({upper})",
    ]


def _change(database: Database, statements: Sequence[str], new: str = "") -> bool:
    """One change in a transaction; False if another process is at it, or has made the `new` partition meanwhile."""
    with database.transaction() as connection:
        if not _alone(connection) or (new and _exists(connection, new)):
            return False
        connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
        for statement in statements:
            connection.execute(statement.encode())
    return True


def _exists(connection: Connection, name: str) -> bool:
    return connection.execute(b"SELECT to_regclass(%s) IS NOT NULL", [name]).fetchall() == [(True,)]


def _alone(connection: Connection) -> bool:
    return bool(connection.execute(b"SELECT pg_try_advisory_xact_lock(%s)", [_LOCK]).fetchall()[0][0])
