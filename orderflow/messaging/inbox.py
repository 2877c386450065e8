"""The inbox: which messages have had their effect, claimed in the transaction of that effect; and who failed how often.

Pruning it is safe: commands are idempotent by (order, kind), whatever their message id.
Source of the pattern: "Idempotent consumer", https://microservices.io/patterns/communication-style/idempotent-consumer.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orderflow.database import Connection, Database
from orderflow.database.partitions import Partitioned
from orderflow.database.retention import Deleted, Kept

# For each id, not `= ANY(array)`: so a prepared plan finds the one partition of each when it is executed.
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
    """Those of the messages that have had their effect."""
    rows = connection.execute(KNOWN, [list(message_ids), consumer]).fetchall()
    return {row[0] for row in rows}


def claim(connection: Connection, consumer: str, outcomes: Sequence[tuple[str, str]]) -> None:
    """Notes (message id, outcome's name). Fails with psycopg's UniqueViolation if another process was first:
    then this whole transaction must be undone and tried again, and finds them known."""
    connection.execute(_CLAIM, [consumer, [m for m, _ in outcomes], [o for _, o in outcomes]])


def count_failure(database: Database, message_id: str, error: str) -> int:
    """How often this message's handler has failed by now, this time included."""
    return int(database.query(_COUNT, [message_id, error[:1000]])[0][0])


def forgive(connection: Connection, message_ids: Sequence[str]) -> None:
    """Forgets how often these have failed: redriven, each has all its tries again."""
    connection.execute(b"DELETE FROM failures WHERE message_id = ANY(%s::uuid[])", [list(message_ids)])


def kept(seconds: float) -> Sequence[Kept]:
    """The inbox is kept for so long since its messages were minted: a day's partition goes at once."""
    return (
        Partitioned("inbox", "message_id", by_id=True, keep=seconds),
        Deleted("inbox_default", "at", seconds),
        Deleted("failures", "at", seconds),
    )
