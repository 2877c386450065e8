"""The inbox: which messages have had their effect, claimed in the transaction of that effect; and who failed how often.

Pruning it is safe: commands are idempotent by (order, kind), whatever their message id.
Source of the pattern: "Idempotent consumer", https://microservices.io/patterns/communication-style/idempotent-consumer.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orderflow.database import Connection, Database

TABLES: Final = """
CREATE TABLE inbox (
    consumer text NOT NULL,
    message_id uuid NOT NULL,
    outcome text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, message_id)
);
CREATE INDEX inbox_at ON inbox USING brin (at);
CREATE TABLE failures (
    message_id uuid PRIMARY KEY,
    count int NOT NULL,
    last_error text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
)
"""

_KNOWN: Final = b"SELECT message_id::text FROM inbox WHERE consumer = %s AND message_id = ANY(%s::uuid[])"
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
    rows = connection.execute(_KNOWN, [consumer, list(message_ids)]).fetchall()
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


def prune(database: Database, older_than: float) -> None:
    """Forgets what was handled, or failed, more than so many seconds ago."""
    for table in ("inbox", "failures"):
        database.forget(table, "at < now() - make_interval(secs => %s)", [older_than])
