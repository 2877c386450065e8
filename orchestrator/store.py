"""The statements over the sagas' table (its schema: `migrations/`), each for a whole batch, and the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.engine import State
from orderflow.contracts import EventBus, OrderSnapshot, Workflow
from orderflow.database import Connection, Cursor, Database
from orderflow.database.clock_set_back import Ahead
from orderflow.database.holders import Rows
from orderflow.database.partitions import BUSINESS, Partitioned
from orderflow.database.retention import Kept
from orderflow.database.unreadable import PutAside, read_one
from orderflow.metrics import Gauge
from orderflow.saga.audit_log import AuditLog
from orderflow.saga.retry_budget import PUT_OFF

LOG: Final = AuditLog("saga_log")
"""The audit log."""


@dataclass(slots=True)
class Saga:
    """One order's saga. `version` grows with every change; `waited` is the seconds since the last progress (or
    since its question was sent, if that was later), by the database's clock; `next_in` the seconds until its owner
    looks after it again (None leaves it as it is)."""

    order_id: str
    version: int
    workflow: Workflow
    event_bus: EventBus
    traceparent: str | None
    snapshot: OrderSnapshot
    facts: set[str]
    state: State
    open_type: str | None
    open_id: str | None
    attention: bool
    reason: str
    sends: int
    waited: float = 0.0
    next_in: float | None = None
    progressed: bool = False

    @property
    def active(self) -> bool:
        return self.state in (State.RUNNING, State.COMPENSATING)


_COLUMNS: Final = """order_id::text, version, workflow, event_bus, traceparent, snapshot, facts, state, open_type,
    open_id::text, attention, reason, sends, extract(epoch FROM now() - progress_at)::float"""
# For each id, not `= ANY(array)`: so a prepared plan finds the one partition of each when it is executed.
_LOCK: Final = f"""
SELECT found.* FROM unnest(%s::uuid[]) AS asked(i)
CROSS JOIN LATERAL (SELECT {_COLUMNS} FROM sagas WHERE order_id = asked.i FOR UPDATE) AS found
""".encode()  # noqa: S608
_PUT_OFF: Final = b"""
UPDATE sagas SET look_at = sagas.next_at FROM (
    SELECT order_id FROM sagas WHERE active AND look_at <= now() - make_interval(secs => %(lag)s)
        AND next_at > now() - make_interval(secs => %(lag)s)
    ORDER BY look_at LIMIT %(put_off)s FOR UPDATE SKIP LOCKED
) AS early WHERE sagas.order_id = early.order_id
"""
_DUE: Final = f"""
SELECT {_COLUMNS} FROM sagas o
WHERE active AND look_at <= now() - make_interval(secs => %(lag)s)
    AND next_at <= now() - make_interval(secs => %(lag)s)
    AND progress_at <= now() - make_interval(secs => coalesce((%(waits)s::jsonb ->> open_type)::float, 0))
    AND NOT EXISTS (SELECT FROM outbox q WHERE q.order_id = o.order_id AND q.parked IS NULL)
    AND NOT EXISTS (
        SELECT FROM given_back g WHERE g.order_id = o.order_id AND g.until > now() - make_interval(secs => %(lag)s)
    )
ORDER BY look_at LIMIT %(limit)s FOR UPDATE OF o SKIP LOCKED
""".encode()  # noqa: S608
_WAITS: Final = "SELECT EXISTS (SELECT FROM sagas WHERE active AND look_at <= now() AND next_at <= now())"
_INSERT: Final = b"""
INSERT INTO sagas (order_id, version, workflow, event_bus, traceparent, snapshot, facts, state, open_type, open_id,
    active, attention, reason, sends, next_at, look_at)
SELECT i, v, w, b, t, s, string_to_array(f, ','), st, ot, oi, a, at, r, se, now() + make_interval(secs => n),
    now() + make_interval(secs => n)
FROM unnest(%s::uuid[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::uuid[], %s::bool[], %s::bool[], %s::text[], %s::int[], %s::float[])
    AS x(i, v, w, b, t, s, f, st, ot, oi, a, at, r, se, n)
"""
_SAVE: Final = b"""
UPDATE sagas o SET version = s.version, facts = string_to_array(s.facts, ','), state = s.state, open_type = s.open_type,
    open_id = s.open_id, active = s.active, attention = s.attention, reason = s.reason, sends = s.sends,
    updated_at = now(), progress_at = CASE WHEN s.progressed THEN now() ELSE o.progress_at END,
    next_at = CASE WHEN s.next_in IS NULL THEN o.next_at ELSE now() + make_interval(secs => s.next_in) END,
    look_at = CASE WHEN s.next_in IS NULL OR o.look_at > now() THEN o.look_at
                   ELSE now() + make_interval(secs => s.next_in) END
FROM unnest(%s::uuid[], %s::int[], %s::text[], %s::text[], %s::text[], %s::uuid[], %s::bool[], %s::bool[], %s::text[],
    %s::int[], %s::bool[], %s::float[])
    AS s(id, version, facts, state, open_type, open_id, active, attention, reason, sends, progressed, next_in)
WHERE o.order_id = s.id
"""
ROWS: Final = Rows("sagas", "order_id")
AHEAD: Final = (
    Ahead(
        "sagas", "order_id", "look_at", "next_at = now(), progress_at = least(progress_at, now())",
        "active AND NOT attention",
    ),
)  # fmt: skip
"""Sagas that nobody would look after for a long time."""
ASIDE: Final = PutAside("sagas", key="order_id", due="next_at")
"""Sagas that this release can't look after."""

# In key order, as all who lock sagas do; one that is locked is being handled, and keeps nobody waiting.
_RESTART: Final = b"""
WITH late AS (
    SELECT order_id FROM unnest(%(ids)s::uuid[]) AS asked(i) JOIN sagas ON order_id = asked.i
    WHERE active AND progress_at < now() - interval '5 s'
), free AS (
    SELECT order_id FROM sagas WHERE order_id IN (SELECT order_id FROM late) ORDER BY order_id FOR UPDATE SKIP LOCKED
), restarted AS (
    UPDATE sagas o SET progress_at = now(), next_at = greatest(next_at, now() + make_interval(secs => %(next_in)s))
    FROM free WHERE o.order_id = free.order_id RETURNING o.order_id
)
SELECT order_id::text FROM late WHERE order_id NOT IN (SELECT order_id FROM restarted)
"""


def lock(connection: Connection, order_ids: Iterable[str]) -> Cursor:
    """Starts to lock sagas, in key order; `read` waits for them."""
    return connection.execute(_LOCK, [sorted(set(order_ids))])


def read(locked: Cursor, order_ids: Iterable[str]) -> dict[str, Saga]:
    """The locked sagas that are wanted now, by id. Raises UnreadableRow."""
    wanted = set(order_ids)
    return {row[0]: read_one(row, _saga) for row in locked if row[0] in wanted}


def due(connection: Connection, lag: float, waits: Mapping[str, float], limit: int) -> tuple[list[Saga], bool]:
    """Locks active sagas whose time has come, as of the watermark, `lag` seconds ago; and whether there may be more.
    Not those whose question is still in the outbox, or of which something was given back; nor those that have waited
    for less than `waits` says, in seconds by the open message."""
    asked = {"lag": lag, "waits": json.dumps(waits), "limit": limit}
    connection.execute(_PUT_OFF, {"lag": lag, "put_off": PUT_OFF})
    rows = connection.execute(_DUE, asked).fetchall()
    return ASIDE.read(rows, _saga, connection.execute), len(rows) == limit


def any_due(database: Database) -> bool:
    """Whether the time of any active saga has come, by the clock."""
    return bool(database.query(_WAITS)[0][0])


def restart_clocks(connection: Connection, order_ids: Sequence[str], next_in: float) -> set[str]:
    """The clock of an answer starts when the question is sent: now, for sagas that had waited for more than a moment.
    Returns those that it could not lock."""
    rows = connection.execute(_RESTART, {"ids": list(order_ids), "next_in": next_in}).fetchall()
    return {row[0] for row in rows}


def _saga(row: Sequence[Any]) -> Saga:
    return Saga(
        row[0], row[1], Workflow(row[2]), EventBus(row[3]), row[4], OrderSnapshot.model_validate_json(row[5]),
        set(row[6]), State(row[7]), *row[8:14],
    )  # fmt: skip


def insert(connection: Connection, sagas: Sequence[Saga]) -> None:
    """Stores new sagas. Raises UniqueViolation where another process was first."""
    if sagas:
        columns = zip(
            *(
                (
                    s.order_id, s.version, s.workflow.value, s.event_bus.value, s.traceparent,
                    s.snapshot.model_dump_json(), ",".join(sorted(s.facts)), s.state.value, s.open_type, s.open_id,
                    s.active, s.attention, s.reason[:500], s.sends, s.next_in or 0.0,
                )
                for s in sagas
            ),
            strict=True,
        )  # fmt: skip
        connection.execute(_INSERT, [list(column) for column in columns])


def save(connection: Connection, sagas: Sequence[Saga], lag: float = 0.0) -> None:
    """Stores what has changed about sagas that are locked. Their next looks count from `lag` seconds ago."""
    if sagas:
        columns = zip(
            *(
                (
                    s.order_id, s.version, ",".join(sorted(s.facts)), s.state.value, s.open_type, s.open_id, s.active,
                    s.attention, s.reason[:500], s.sends, s.progressed,
                    None if s.next_in is None else s.next_in - lag,
                )
                for s in sagas
            ),
            strict=True,
        )  # fmt: skip
        connection.execute(_SAVE, [list(column) for column in columns])


def gauges(database: Database) -> Sequence[Gauge]:
    """The state of the active sagas."""
    [(active, stuck)] = database.query("SELECT count(*), count(*) FILTER (WHERE attention) FROM sagas WHERE active")
    return (
        Gauge("sagas_active", "Sagas that are neither confirmed nor cancelled", active),
        Gauge("sagas_needing_attention", "Of these, those that need an operator", stuck),
    )


def kept(seconds: float) -> Sequence[Kept]:
    """Sagas are kept for ever, their audit log for so long."""
    return (
        Partitioned("sagas", "order_id", by_id=True, keep=None, width=BUSINESS, storage="fillfactor = 60"),
        *LOG.kept(seconds),
    )
