"""An append-only log of what happened to each order: the order service's timeline, the orchestrator's audit log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg import sql

from orderflow.database import Connection, Database
from orderflow.database.partitions import Partitioned
from orderflow.database.retention import Deleted, Kept

_WRITE: Final = """
INSERT INTO {table} (order_id, service, kind, type, message_id, causation_id, note, resend)
SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::uuid[], %s::uuid[], %s::text[], %s::int[])
"""
_READ: Final = """
SELECT at, service, kind, type, message_id::text, causation_id::text, note, resend FROM {table}
WHERE order_id = %s AND at >= coalesce(%s::timestamptz - interval '1 hour', '-infinity') ORDER BY seq
"""
"""The hour allows for steps of the database's clock."""


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to write: who acted (`service`), whether it is a command, an event or a note, and how often the message
    had been sent before (`resend`)."""

    order_id: str
    service: str
    kind: str
    type: str
    message_id: str | None = None
    causation_id: str | None = None
    note: str = ""
    resend: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it was written, with the time by the database's clock."""

    at: datetime
    service: str
    kind: str
    type: str
    message_id: str | None = None
    causation_id: str | None = None
    note: str = ""
    resend: int = 0


class AuditLog:
    """The statements on one log, each for a whole batch."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._write, self._read = (
            sql.SQL(statement).format(table=sql.Identifier(name)).as_string() for statement in (_WRITE, _READ)
        )

    def write(self, connection: Connection, entries: Sequence[NewRecord]) -> None:
        """Appends, in the order given."""
        if entries:
            columns = zip(
                *(
                    (e.order_id, e.service, e.kind, e.type, e.message_id, e.causation_id, e.note[:500], e.resend)
                    for e in entries
                ),
                strict=True,
            )
            connection.execute(self._write.encode(), [list(column) for column in columns])

    def read(self, database: Database, order_id: str, since: datetime | None = None) -> list[Record]:
        """All records of an order, oldest first. `since`: the earliest time of its first record; older partitions are
        not read."""
        return [Record(*row) for row in database.query(self._read, [order_id, since])]

    def kept(self, seconds: float) -> Sequence[Kept]:
        """Keeps records for `seconds`."""
        return (
            Partitioned(self._name, "at", by_id=False, keep=seconds),
            Deleted(f"{self._name}_default", "at", seconds),
        )
