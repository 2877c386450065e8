"""Growing tables are partitioned by time (PostgreSQL's declarative partitions), and old partitions are dropped whole.

The partition key is a UUIDv7, whose first 48 bits are the time it was minted (RFC 9562, 5.7), or a time. A row that
fits no partition (its id is not a UUIDv7, a clock is wrong, or a partition could not be made in time) goes to the
table's DEFAULT partition, so no insert ever fails for lack of a partition.
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
"""An advisory lock, so that one process at a time changes partitions."""

_LOCK_TIMEOUT: Final = "200ms"
"""Waiting for a table's exclusive lock delays all later statements, so it must be shorter than their own time-out.
Behind a long reader (pg_dump) it fails and is retried later: partitions are made far ahead, and dropping is not urgent.
"""

_PARTS: Final = 14
"""Partitions within the retention time; for the inbox, which keeps 14 days, one per day."""

_AHEAD: Final = 2
"""Partitions that are made in advance."""

BUSINESS: Final = 30 * 86400.0
"""Seconds that a partition of business rows (orders, sagas, reservations, intents) spans. These are never dropped: keys
and tombstones don't expire. But old partitions need no vacuum, and the indexes in use stay small."""

_BOUND: Final = re.compile(r"FROM \('?([^')]+)'?\) TO \('?([^')]+)'?\)")
_EXISTING: Final = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = %s::regclass
"""


@dataclass(frozen=True, slots=True)
class Partitioned:
    """A table that is partitioned by `key`: a UUIDv7 if `by_id`, else a time. `keep`: seconds until a partition is
    dropped; None: never. `width`: seconds that one partition spans, by default a fourteenth of `keep`. `storage`: the
    storage parameters of each partition, since a partitioned table itself can't have any."""

    table: str
    key: str
    by_id: bool
    keep: float | None
    width: float = 0.0
    storage: str = ""

    @property
    def seconds(self) -> float:
        """Seconds that one partition spans."""
        return self.width or max(1.0, round((self.keep or 0.0) / _PARTS))

    def literal(self, seconds: float) -> str:
        """A bound as SQL, from seconds since 1970, UTC."""
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
    """Makes partitions in advance, and drops those whose rows have all passed their retention time. Returns the number
    of changes. `every`: seconds until the next call. Safe to call from several processes at once.

    Raises DatabaseUnavailable if a long transaction holds the table: call it again later."""
    [(now,)] = database.query("SELECT extract(epoch FROM now())::float8")
    parts = existing(database, table)
    changes = 0
    for part in _missing(table, parts, now, every):
        if not _change(database, _creation(table, part), new=part.name):
            return changes  # another process is making the others
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
    """Missing partitions from now until well after the next call, including gaps and changes of the width."""
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
    """Creates a table and attaches it: that takes no exclusive lock on the whole table, only on DEFAULT, whose rows of
    that time are moved."""
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
    """Makes one change in a transaction. False if another process holds the lock, or has made the `new` partition
    meanwhile."""
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
