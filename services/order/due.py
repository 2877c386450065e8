"""Finds the open orders that the order service, as their owner, has to look after now.

`next_at` says when an order is due. `look_at` is never later than `next_at` and has an index
(`database/migrations/frozen/0006_look_at.sql`). Both are compared with the watermark of the service's queue
(`orderflow.messaging.receivers`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from orderflow.database import Connection, Database
from orderflow.saga.retry_budget import PUT_OFF
from services.order.aggregate import Order
from services.order.models import ASIDE, COLUMNS, order_of

_PUT_OFF: Final = b"""
UPDATE orders SET look_at = orders.next_at FROM (
    SELECT id FROM orders WHERE open AND look_at <= now() - make_interval(secs => %(lag)s)
        AND next_at > now() - make_interval(secs => %(lag)s)
    ORDER BY look_at LIMIT %(put_off)s FOR UPDATE SKIP LOCKED
) AS early WHERE orders.id = early.id
"""
_DUE: Final = f"""
SELECT {COLUMNS} FROM orders o
WHERE open AND look_at <= now() - make_interval(secs => %(lag)s)
    AND next_at <= now() - make_interval(secs => %(lag)s)
    AND (workflow <> 'choreography'
        OR progress_at <= now() - make_interval(secs => coalesce((%(waits)s::jsonb ->> status)::float, 0)))
    AND NOT EXISTS (SELECT FROM outbox q WHERE q.order_id = o.id AND q.parked IS NULL)
    AND NOT EXISTS (
        SELECT FROM given_back g WHERE g.order_id = o.id AND g.until > now() - make_interval(secs => %(lag)s)
    )
ORDER BY look_at LIMIT %(limit)s FOR UPDATE OF o SKIP LOCKED
""".encode()  # noqa: S608
_WAITS: Final = "SELECT EXISTS (SELECT FROM orders WHERE open AND look_at <= now() AND next_at <= now())"
# Locks in key order, as everywhere. A locked order is being handled at this moment: skip it and don't wait.
_RESTART: Final = b"""
WITH late AS (
    SELECT id FROM unnest(%(ids)s::uuid[]) AS asked(i) JOIN orders ON id = asked.i
    WHERE open AND progress_at < now() - interval '5 s'
), free AS (
    SELECT id FROM orders WHERE id IN (SELECT id FROM late) ORDER BY id FOR UPDATE SKIP LOCKED
), restarted AS (
    UPDATE orders o SET progress_at = now(), next_at = greatest(next_at, now() + make_interval(secs => %(next_in)s))
    FROM free WHERE o.id = free.id RETURNING o.id
)
SELECT id::text FROM late WHERE id NOT IN (SELECT id FROM restarted)
"""


def due(connection: Connection, lag: float, waits: Mapping[str, float], limit: int) -> tuple[list[Order], bool]:
    """Locks the open orders that are due as of the watermark, `lag` seconds ago. Also says whether there may be more.

    Three kinds of orders are left out: those whose question is still in the outbox; those with a message that was given
    back to the queue; and those that this service coordinates and that have waited for less than `waits` says (seconds
    by status).
    """
    asked = {"lag": lag, "waits": json.dumps(waits), "limit": limit}
    connection.execute(_PUT_OFF, {"lag": lag, "put_off": PUT_OFF})
    rows = connection.execute(_DUE, asked).fetchall()
    return ASIDE.read(rows, order_of, connection.execute), len(rows) == limit


def any_due(database: Database) -> bool:
    """Whether any open order is due by the database's clock."""
    return bool(database.query(_WAITS)[0][0])


def restart_clocks(connection: Connection, order_ids: Sequence[str], next_in: float) -> set[str]:
    """Restarts the clocks of orders whose question was sent late: the time for an answer starts when the question is
    sent. Returns the orders that it could not lock."""
    rows = connection.execute(_RESTART, {"ids": list(order_ids), "next_in": next_in}).fetchall()
    return {row[0] for row in rows}
