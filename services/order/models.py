"""The statements over the order service's tables (their schema: `migrations/`), each for a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from orderflow.contracts import (
    EventBus,
    OrderSnapshot,
    Workflow,
)
from orderflow.database import Connection, Cursor, Database
from orderflow.database.clock_set_back import TOLERANCE, Ahead
from orderflow.database.holders import Rows
from orderflow.database.partitions import BUSINESS, Partitioned
from orderflow.database.retention import Deleted, Kept
from orderflow.database.unreadable import PutAside, read_one
from orderflow.metrics import Gauge
from orderflow.saga.audit_log import AuditLog
from orderflow.settings import Settings
from services.order.aggregate import Order

LOG: Final = AuditLog("order_log")
"""The order's own timeline."""


COLUMNS: Final = """id::text, workflow, event_bus, traceparent, placed_id::text, cancel_id::text, facts, reason,
    answered, attention, sends, extract(epoch FROM now() - progress_at)::float,
    extract(epoch FROM now() - created_at)::float"""
# For each id, not `= ANY(array)`: so a prepared plan finds the one partition of each when it is executed.
_LOCK: Final = f"""
SELECT found.* FROM unnest(%s::uuid[]) AS asked(i)
CROSS JOIN LATERAL (SELECT {COLUMNS} FROM orders WHERE id = asked.i FOR UPDATE) AS found
""".encode()  # noqa: S608
_LOCK_FREE: Final = _LOCK.replace(b"FOR UPDATE", b"FOR UPDATE SKIP LOCKED")
_INSERT: Final = b"""
INSERT INTO orders (id, customer_id, workflow, event_bus, snapshot, amount, currency, traceparent, placed_id, cancel_id,
    next_at, look_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, now() + make_interval(secs => %s), now() + make_interval(secs => %s))
RETURNING created_at
"""
_SAVE: Final = b"""
UPDATE orders o SET facts = string_to_array(s.facts, ','), status = s.status, reason = s.reason, open = s.open,
    answered = s.answered, attention = s.attention, sends = s.sends, updated_at = now(),
    progress_at = CASE WHEN s.progressed THEN now() ELSE o.progress_at END,
    next_at = CASE WHEN s.next_in IS NULL THEN o.next_at ELSE now() + make_interval(secs => s.next_in) END,
    look_at = CASE WHEN s.next_in IS NULL OR o.look_at > now() THEN o.look_at
                   ELSE now() + make_interval(secs => s.next_in) END
FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::bool[], %s::bool[], %s::bool[], %s::int[], %s::bool[],
    %s::float[]) AS s(id, facts, status, reason, open, answered, attention, sends, progressed, next_in)
WHERE o.id = s.id
"""
ROWS: Final = Rows("orders", "id")
ASIDE: Final = PutAside("orders", key="id", due="next_at")
"""Orders that this release can't look after."""


AHEAD: Final = (
    Ahead(
        "orders", "id", "look_at", "next_at = now(), progress_at = least(progress_at, now())",
        "open AND NOT attention",
    ),
)  # fmt: skip
"""Orders that nobody would look after for a long time."""

STUCK: Final = """(attention OR progress_at < now() - make_interval(
    secs => CASE workflow WHEN 'step-functions' THEN %(overdue_by_machine)s ELSE %(overdue)s END)
    OR next_at > now() + make_interval(secs => %(longest)s) OR progress_at > now() + interval '1 min')"""
"""A condition on open orders: an operator must look at them, whoever coordinates them. Its parameters: `patience`."""


def patience(settings: Settings) -> dict[str, float]:
    """The parameters of `STUCK`, in seconds: the longest that an order may be open since its last progress, and the
    furthest ahead that one is looked at."""
    return {
        "overdue": settings.overdue_after,
        "overdue_by_machine": settings.overdue_by_machine_after,
        "longest": settings.longest_wait + TOLERANCE,
    }


def lock(connection: Connection, order_ids: Iterable[str]) -> Cursor:
    """Starts to lock orders, in key order; `read` waits for them."""
    return connection.execute(_LOCK, [sorted(set(order_ids))])


def read(locked: Cursor, order_ids: Iterable[str]) -> dict[str, Order]:
    """The locked orders that are wanted now, by id. Raises UnreadableRow."""
    wanted = set(order_ids)
    return {row[0]: read_one(row, order_of) for row in locked if row[0] in wanted}


def lock_free(connection: Connection, order_ids: Sequence[str]) -> list[Order]:
    """Locks the orders that nobody else has locked and that this release can read."""
    rows = connection.execute(_LOCK_FREE, [list(order_ids)]).fetchall()
    return ASIDE.read(rows, order_of, connection.execute)


def order_of(row: Sequence[Any]) -> Order:
    return Order(
        row[0], Workflow(row[1]), EventBus(row[2]), row[3], row[4], row[5], set(row[6]), row[7], row[8], row[9],
        row[10], row[11], row[12],
    )  # fmt: skip


def insert(
    connection: Connection, order: Order, customer_id: str, snapshot: OrderSnapshot, first_look: float
) -> Callable[[], datetime]:
    """Stores a new order, which its owner looks after in `first_look` seconds. Returns when it was created."""
    cursor = connection.execute(
        _INSERT,
        [
            order.id, customer_id, order.workflow.value, order.event_bus.value, snapshot.model_dump_json(),
            snapshot.total.amount, snapshot.total.currency, order.traceparent, order.placed_id, order.cancel_id,
            first_look, first_look,
        ],
    )  # fmt: skip
    return lambda: cursor.fetchall()[0][0]


def save(connection: Connection, orders: Sequence[Order], lag: float = 0.0) -> None:
    """Stores what has changed about orders that are locked. Their next looks count from `lag` seconds ago."""
    if orders:
        connection.execute(
            _SAVE,
            [
                [o.id for o in orders],
                [",".join(sorted(o.facts)) for o in orders],
                [o.status.value for o in orders],
                [o.reason[:500] for o in orders],
                [o.open for o in orders],
                [o.answered for o in orders],
                [o.attention for o in orders],
                [o.sends for o in orders],
                [o.progressed for o in orders],
                [None if o.next_in is None else o.next_in - lag for o in orders],
            ],
        )


def snapshots(connection: Connection, order_ids: Sequence[str]) -> dict[str, str]:
    """The orders as they were accepted, each as JSON of an OrderSnapshot; not read yet, as one may be unreadable."""
    return dict(
        connection.execute("SELECT id::text, snapshot FROM orders WHERE id = ANY(%s::uuid[])", [list(order_ids)])
    )


def gauges(database: Database, settings: Settings) -> Sequence[Gauge]:
    """The state of the open orders."""
    [(open_orders, attention, stuck, oldest)] = database.query(
        f"""SELECT count(*), count(*) FILTER (WHERE attention), count(*) FILTER (WHERE {STUCK}),
                  coalesce(extract(epoch FROM now() - min(progress_at)), 0)::float
           FROM orders WHERE open""",  # noqa: S608
        patience(settings),
    )
    return (
        Gauge("orders_open", "Orders that are neither confirmed nor cancelled", open_orders),
        Gauge("orders_needing_attention", "Of these, those that need an operator", attention),
        Gauge("orders_overdue", "Of the open orders, those past every deadline without an operator", stuck - attention),
        Gauge("orders_waited_seconds", "Since the last progress of the open order that has waited longest", oldest),
    )


def kept(settings: Settings) -> Sequence[Kept]:
    """Log lines and the former release's idempotency keys are deleted in time; orders are kept."""
    return (
        Partitioned("orders", "id", by_id=True, keep=None, width=BUSINESS, storage="fillfactor = 60"),
        *LOG.kept(settings.keep_log),
        Deleted("idempotency_keys", "created_at", settings.keep_idempotency_keys),
    )
