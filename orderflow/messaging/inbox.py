"""The inbox: which messages have had their effect, recorded in the transaction of that effect; and failure counts.

Pruning it is safe: commands are idempotent by (order, kind), whatever their message id. Source of the pattern:
"Idempotent consumer", https://microservices.io/patterns/communication-style/idempotent-consumer.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orderflow.database import Connection, Database
from orderflow.database.partitions import Partitioned
from orderflow.database.retention import Deleted, Kept

# One lookup per id instead of `= ANY(array)`: so a prepared plan can prune to each id's partition at execution.
KNOWN: Final = b"""
SELECT found.id FROM unnest(%s::uuid[]) AS asked(id) CROSS JOIN LATERAL (
    SELECT message_id::text AS id FROM inbox WHERE message_id = asked.id AND consumer = %s OFFSET 0
) AS found
"""
_CLAIM: Final = b"""
INSERT INTO inbox (consumer, message_id, outcome)
SELECT %s, m, o FROM unnest(%s::uuid[], %s::text[]) AS handled(m, o)
"""
_COUNT: Final = """
INSERT INTO failures AS f (message_id, count, last_error) VALUES (%s::uuid, 1, %s)
ON CONFLICT (message_id) DO UPDATE SET count = f.count + 1, last_error = excluded.last_error, at = now()
RETURNING count
"""


def known(connection: Connection, consumer: str, message_ids: Sequence[str]) -> set[str]:
    """Those of these messages that have had their effect."""
    rows = connection.execute(KNOWN, [list(message_ids), consumer]).fetchall()
    return {row[0] for row in rows}


def claim(connection: Connection, consumer: str, outcomes: Sequence[tuple[str, str]]) -> None:
    """Records (message id, outcome's name). Raises psycopg's UniqueViolation if another process was first: then the
    whole transaction must be rolled back and retried, and will find them known."""
    connection.execute(_CLAIM, [consumer, [m for m, _ in outcomes], [o for _, o in outcomes]])


def count_failure(database: Database, message_id: str, error: str) -> int:
    """Counts a failure; returns how often this message's handler has failed, this time included."""
    return int(database.query(_COUNT, [message_id, error[:1000]])[0][0])


def forgive(connection: Connection, message_ids: Sequence[str]) -> None:
    """Resets failure counts: a redriven message gets all its attempts again."""
    connection.execute(b"DELETE FROM failures WHERE message_id = ANY(%s::uuid[])", [list(message_ids)])


def kept(seconds: float) -> Sequence[Kept]:
    """Keeps inbox rows for `seconds` after their messages were minted; a partition is dropped at once."""
    return (
        Partitioned("inbox", "message_id", by_id=True, keep=seconds),
        Deleted("inbox_default", "at", seconds),
        Deleted("failures", "at", seconds),
    )
