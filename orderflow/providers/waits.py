"""What waits for a provider for long: in the database, where it holds up nothing, and not in the queue.

SQS holds 120,000 messages in flight at most, and what is given back for a day passes by healthy orders again and again:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html

An order has one place here, with the newest message that asks; it changes only under the lock of the order's intent.
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
"""Seconds that a call without an answer waits at most until it is made again."""

# `due` locks intents, as everybody does first; what is locked or leased is another's. The place itself comes due again
# when the lease ends: this process may die.
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
    """Who is to wait from now on, and for how many seconds until the next call."""

    waiting: Waiting
    delay: float


class Waits:
    """The statements over what waits for the calls of the intents table `name`, each for a whole batch."""

    def __init__(self, name: str) -> None:
        self.aside = PutAside(waits(name), "order_id", "next_at")
        self._due, self._put, self._drop, self._gauges = (
            sql.SQL(statement).format(table=sql.Identifier(name), waits=sql.Identifier(waits(name))).as_bytes(None)
            for statement in (_DUE, _PUT, _DROP, _GAUGES)
        )

    def due(self, connection: Connection, limit: int, lease: float, *, undo: bool) -> tuple[list[Claim], list[str]]:
        """Takes on, for `lease` seconds, up to `limit` that are due, the oldest first; and the orders of which another
        release has recorded the answer without giving it to who waits here."""
        rows = connection.execute(self._due, [undo, limit, lease, lease]).fetchall()
        taken = [
            Claim(o, state == UNDOING, fence, request or {}, age) for o, state, fence, request, age in rows if fence
        ]
        return taken, [row[0] for row in rows if row[2] is None]

    def put(self, connection: Connection, puts: Sequence[Put]) -> None:
        """Gives orders their place, or changes it."""
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
        """These are answered."""
        connection.execute(self._drop, [list(order_ids)])

    def measured(self, database: Database) -> tuple[int, float]:
        """How many wait, and the seconds since the oldest began to."""
        [(count, age)] = database.query(self._gauges.decode())
        return count, age


def backoff(tries: int) -> float:
    """Seconds until the next call after so many calls in a row without an answer. Full jitter:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""
    return random.uniform(0, min(_LONGEST, 2 ** min(tries, 10)))
