"""Calls that wait long for a provider: they wait in the database, where they delay nothing, and not in the queue.

SQS allows 120,000 messages in flight, and messages that are retried for a day would compete with healthy orders:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html

An order has one entry here, with the newest message that asks. It changes only under the lock of the order's intent.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from orderflow.database import Connection, Database
from orderflow.database.unreadable import PutAside
from orderflow.providers.intents import UNDOING, Claim, Waiting, waits

_LONGEST: Final = 300.0
"""Maximum seconds until a call without an answer is retried."""

# `due` locks intents first, as every statement does, and skips those that another process has locked or leased. The
# entry itself is due again when the lease ends, because this process may die.
_DUE: Final = """
WITH due AS MATERIALIZED (
    SELECT known.order_id, known.state FROM {waits} AS w JOIN {table} AS known ON known.order_id = w.order_id
    WHERE w.undo = %s AND w.next_at <= now() AND (known.lease_until IS NULL OR known.lease_until <= now()
        OR known.updated_at > now() + interval '1 min')
    ORDER BY w.next_at LIMIT %s FOR UPDATE OF known SKIP LOCKED
), again AS (
    UPDATE {waits} AS w SET next_at = now() + make_interval(secs => %s) FROM due WHERE w.order_id = due.order_id
), taken AS (
    UPDATE {table} AS known
    SET fence = known.fence + 1, lease_until = now() + make_interval(secs => %s), updated_at = now()
    FROM due WHERE known.order_id = due.order_id AND due.state IN ('intended', 'undoing')
    RETURNING known.order_id, known.fence, known.request, extract(epoch FROM now() - known.created_at)::float8 AS age
)
SELECT due.order_id::text, due.state, taken.fence, taken.request, taken.age FROM due LEFT JOIN taken USING (order_id)
"""
_PUT: Final = """
INSERT INTO {waits} AS w (order_id, undo, asking, resend, tries, next_at)
SELECT o, u, a, r, t, now() + make_interval(secs => d)
FROM unnest(%s::uuid[], %s::bool[], %s::text[], %s::int[], %s::int[], %s::float8[]) AS put(o, u, a, r, t, d) ORDER BY o
ON CONFLICT (order_id) DO UPDATE
SET undo = excluded.undo, asking = excluded.asking, resend = excluded.resend, tries = excluded.tries,
    next_at = excluded.next_at
"""
_DROP: Final = "DELETE FROM {waits} WHERE order_id = ANY(%s::uuid[])"
_GAUGES: Final = "SELECT count(*), coalesce(extract(epoch FROM now() - min(since)), 0)::float8 FROM {waits}"


@dataclass(frozen=True, slots=True)
class Put:
    """A message that waits from now on, and the seconds until the next call."""

    waiting: Waiting
    delay: float


class Waits:
    """The statements on the waiting calls of the intents table `name`, each for a whole batch."""

    def __init__(self, name: str) -> None:
        self.aside = PutAside(waits(name), "order_id", "next_at")
        self._due, self._put, self._drop, self._gauges = (
            sql.SQL(statement).format(table=sql.Identifier(name), waits=sql.Identifier(waits(name))).as_bytes(None)
            for statement in (_DUE, _PUT, _DROP, _GAUGES)
        )

    def due(self, connection: Connection, limit: int, lease: float, *, undo: bool) -> tuple[list[Claim], list[str]]:
        """Claims, for `lease` seconds, up to `limit` due calls, the oldest first. Also returns the orders whose answer
        another release has recorded without sending it to the message that waits here."""
        rows = connection.execute(self._due, [undo, limit, lease, lease]).fetchall()
        taken = [
            Claim(o, state == UNDOING, fence, request or {}, age) for o, state, fence, request, age in rows if fence
        ]
        return taken, [row[0] for row in rows if row[2] is None]

    def put(self, connection: Connection, puts: Sequence[Put]) -> None:
        """Creates or changes the entries of orders."""
        waiting = [p.waiting for p in puts]
        connection.execute(
            self._put,
            [
                [w.order_id for w in waiting],
                [w.undo for w in waiting],
                [w.asking for w in waiting],
                [w.resend for w in waiting],
                [w.tries for w in waiting],
                [p.delay for p in puts],
            ],
        )

    def drop(self, connection: Connection, order_ids: Sequence[str]) -> None:
        """Removes the entries of orders that have been answered."""
        connection.execute(self._drop, [list(order_ids)])

    def measured(self, database: Database) -> tuple[int, float]:
        """How many calls wait, and for how many seconds the oldest has waited."""
        [(count, age)] = database.query(self._gauges.decode())
        return count, age


def backoff(tries: int) -> float:
    """Seconds until the next call, after `tries` calls in a row without an answer. Full jitter:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""
    return random.uniform(0, min(_LONGEST, 2 ** min(tries, 10)))
