"""Keeps the executions of the state machine that the guardian watches, and handles the messages about them.

A state machine needs no orchestrator. Only an order that has heard nothing for long turns to it, with a resent
OrderPlaced. From then on the guardian watches the order's execution until it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orderflow.contracts import Message, OrderAccepted, OrderNeedsAttention, OrderPlaced, OrderRetryRequested
from orderflow.database import Connection, Database
from orderflow.database.clock_set_back import Ahead
from orderflow.database.holders import Rows
from orderflow.database.retention import Deleted, Kept
from orderflow.database.unreadable import PutAside
from orderflow.envelope import Envelope, decode
from orderflow.errors import Rejected
from orderflow.messaging.application import Incoming, Reply
from orderflow.metrics import Gauge
from orderflow.saga.audit_log import NewRecord

WATCHED: Final = "watched"
ATTENTION: Final = "attention"
ENDED: Final = "ended"

# An order that reminds although its execution had ended may have been restored from a backup: `doubted` records that.
_REMIND: Final = """
INSERT INTO executions AS e (order_id, placed) VALUES (%s, %s)
ON CONFLICT (order_id) DO UPDATE SET placed = excluded.placed, doubted = e.doubted OR e.state = 'ended',
    state = CASE e.state WHEN 'ended' THEN 'watched' ELSE e.state END,
    next_at = CASE e.state WHEN 'ended' THEN now() ELSE e.next_at END, updated_at = now()
RETURNING state
"""
_RETRY: Final = """
INSERT INTO executions (order_id, retried) VALUES (%s, true)
ON CONFLICT (order_id) DO UPDATE SET state = 'watched', retried = true, next_at = now(), updated_at = now()
"""
_COUNT: Final = """
SELECT count(*) FILTER (WHERE state = 'watched'), count(*) FILTER (WHERE state = 'attention')
FROM executions WHERE state <> 'ended'
"""
# An array, not `IN (SELECT …)`: as a join, the planner may run the limited SELECT per row, each time for other rows.
_CLAIM: Final = b"""
UPDATE executions SET next_at = now() + make_interval(secs => %s)
WHERE order_id = ANY(ARRAY(
    SELECT order_id FROM executions WHERE state = 'watched' AND placed IS NOT NULL AND next_at <= now()
    ORDER BY next_at LIMIT %s FOR UPDATE SKIP LOCKED
))
RETURNING order_id::text, placed, restarts, retried, doubted, extract(epoch FROM now() - created_at)::float
"""
# An operator's retry that has not led to a restart yet keeps the execution watched. A running execution may be about to
# give up, and this look may have been made before the retry arrived.
_SAVE: Final = """
UPDATE executions SET state = CASE WHEN retried THEN 'watched' ELSE %(state)s END, restarts = %(restarts)s,
    retried = retried AND restarts = %(restarts)s, doubted = false, updated_at = now(),
    next_at = now() + make_interval(secs => %(next_in)s)
WHERE order_id = %(order_id)s AND restarts = %(seen)s
RETURNING state
"""
ROWS: Final = Rows("executions", "order_id")
AHEAD: Final = (Ahead("executions", "order_id", "next_at", "next_at = now()", f"state = '{WATCHED}'"),)
"""Executions whose next look lies too far ahead, after the database's clock was set back."""
ASIDE: Final = PutAside("executions", key="order_id", due="next_at")
"""Executions whose rows this release can't read."""


@dataclass(frozen=True, slots=True)
class Watched:
    """An order whose execution is watched.

    `restarts` counts the executions after the first. `retried`: an operator asked for one more. `doubted`: the order
    says that it is open, though its execution succeeded. `age`: seconds since it was first watched.
    """

    order_id: str
    placed: Envelope
    restarts: int
    retried: bool
    doubted: bool
    age: float = 0.0

    @property
    def name(self) -> str:
        """The name of the order's latest execution."""
        return execution_name(self.order_id, self.restarts)


def execution_name(order_id: str, restarts: int) -> str:
    """The name of an order's execution: the order's id, with `-r{n}` for the n-th restart."""
    return f"{order_id}-r{restarts}" if restarts else order_id


def hear(connection: Connection, batch: Sequence[Incoming], log: list[NewRecord]) -> list[Reply]:
    """Handles messages of orders that a state machine runs."""
    replies: list[Reply] = []
    for incoming in batch:
        envelope = incoming.envelope
        if isinstance(incoming.message, OrderPlaced):
            [(state,)] = connection.execute(_REMIND, [envelope.subject, envelope.encode()]).fetchall()
            replies.append([reminded(attention=state == ATTENTION, reason="its execution waits for an operator")])
        elif isinstance(incoming.message, OrderRetryRequested):
            if not incoming.known:
                connection.execute(_RETRY, [envelope.subject])
                note = f"{incoming.message.by}: {incoming.message.why}"
                log.append(NewRecord(envelope.subject, "order", "event", envelope.name, envelope.id, note=note))
            replies.append([])
        else:
            replies.append(Rejected(f"{envelope.name} of a {envelope.workflow.value} order is for its state machine"))
    return replies


def reminded(*, attention: bool, reason: str) -> Message:
    """The answer to an order that reminds. If the execution needs an operator, the order does not know that: either the
    message that said so was lost, or the operator's retry was."""
    return OrderNeedsAttention(reason=reason) if attention else OrderAccepted()


def claim(database: Database, lease: float, limit: int) -> tuple[list[Watched], bool]:
    """Leases executions that are due for `lease` seconds. Also says whether there may be more."""
    with database.transaction() as connection:
        rows = connection.execute(_CLAIM, [lease, limit]).fetchall()
        found = ASIDE.read(rows, lambda row: Watched(row[0], decode(row[1]), *row[2:]), connection.execute)
    return found, len(rows) == limit


def save(connection: Connection, watched: Watched, state: str, restarts: int, next_in: float) -> str | None:
    """Records the result of a look at an execution, and when the next look is due.

    Returns the execution's new state: it stays watched if an operator's retry arrived meanwhile. Returns None and
    records nothing if another guardian has restarted it since, because this look was at an execution that is no longer
    the latest.
    """
    changes = {"state": state, "restarts": restarts, "next_in": next_in, "order_id": watched.order_id}
    saved = connection.execute(_SAVE, changes | {"seen": watched.restarts}).fetchone()
    return str(saved[0]) if saved else None


def restarts(database: Database, order_id: str) -> int | None:
    """How often an order's execution was restarted; None for an order that has never reminded."""
    rows = database.query("SELECT restarts FROM executions WHERE order_id = %s", [order_id])
    return int(rows[0][0]) if rows else None


def gauges(database: Database) -> Sequence[Gauge]:
    """Counts the executions that are watched, and those that need an operator."""
    [(watched, stuck)] = database.query(_COUNT)
    return (
        Gauge("executions_watched", "Executions of the state machine that are watched", watched),
        Gauge("executions_needing_attention", "Executions that gave up and need an operator", stuck),
    )


def kept(seconds: float) -> Sequence[Kept]:
    """How long ended executions are kept."""
    return (Deleted("executions", "updated_at", seconds, only="state = 'ended'"),)
