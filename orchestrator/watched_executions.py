"""Which executions of the state machine are watched, and the messages that say so.

The state machine needs no orchestrator. Only an order that has heard nothing for long asks here (OrderPlaced, sent
again); from then on the guardian watches its execution until it has ended.
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

# An order that reminds although its execution had ended is doubted: it may have been restored from a backup.
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
_CLAIM: Final = b"""
UPDATE executions SET next_at = now() + make_interval(secs => %s)
WHERE order_id IN (
    SELECT order_id FROM executions WHERE state = 'watched' AND placed IS NOT NULL AND next_at <= now()
    ORDER BY next_at LIMIT %s FOR UPDATE SKIP LOCKED
)
RETURNING order_id::text, placed, restarts, retried, doubted, extract(epoch FROM now() - created_at)::float
"""
# A retry that no restart has met yet keeps the execution watched: one that runs may still be about to give up, and one
# that gave up was asked about before the operator's word came.
_SAVE: Final = """
UPDATE executions SET state = CASE WHEN retried THEN 'watched' ELSE %(state)s END, restarts = %(restarts)s,
    retried = retried AND restarts = %(restarts)s, doubted = false, updated_at = now(),
    next_at = now() + make_interval(secs => %(next_in)s)
WHERE order_id = %(order_id)s AND restarts = %(seen)s
RETURNING state
"""
ROWS: Final = Rows("executions", "order_id")
AHEAD: Final = (Ahead("executions", "order_id", "next_at", "next_at = now()", f"state = '{WATCHED}'"),)
"""Executions that nobody would look at for long."""
ASIDE: Final = PutAside("executions", key="order_id", due="next_at")
"""Executions that this release can't look after."""


@dataclass(frozen=True, slots=True)
class Watched:
    """An order whose execution is looked after. `restarts` counts the executions after the first; `retried`: an
    operator asked for one more; `doubted`: the order is said to be open, though its execution ended well;
    `age`: seconds since it is watched."""

    order_id: str
    placed: Envelope
    restarts: int
    retried: bool
    doubted: bool
    age: float = 0.0

    @property
    def name(self) -> str:
        """Of its latest execution."""
        return execution_name(self.order_id, self.restarts)


def execution_name(order_id: str, restarts: int) -> str:
    """The name of an order's execution: its id, and `-r{n}` for the n-th that was started again."""
    return f"{order_id}-r{restarts}" if restarts else order_id


def hear(connection: Connection, batch: Sequence[Incoming], log: list[NewRecord]) -> list[Reply]:
    """Handles the messages of orders that run by the state machine."""
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
    """What an order that reminds is answered. It does not know that an operator is waited for: what told it so got
    lost, or the operator's retry did."""
    return OrderNeedsAttention(reason=reason) if attention else OrderAccepted()


def claim(database: Database, lease: float, limit: int) -> tuple[list[Watched], bool]:
    """Takes what is due, for `lease` seconds; and whether there may be more."""
    with database.transaction() as connection:
        rows = connection.execute(_CLAIM, [lease, limit]).fetchall()
        found = ASIDE.read(rows, lambda row: Watched(row[0], decode(row[1]), *row[2:]), connection.execute)
    return found, len(rows) == limit


def save(connection: Connection, watched: Watched, state: str, restarts: int, next_in: float) -> str | None:
    """Notes what a look at an execution gave, and when the next is due. Gives the state that it has now: it stays
    watched if an operator's retry came meanwhile. None, and nothing is noted, if another guardian has started it again
    since: this look was at an execution that is no longer the latest."""
    changes = {"state": state, "restarts": restarts, "next_in": next_in, "order_id": watched.order_id}
    saved = connection.execute(_SAVE, changes | {"seen": watched.restarts}).fetchone()
    return str(saved[0]) if saved else None


def restarts(database: Database, order_id: str) -> int | None:
    """How often an order's execution was started again; None for an order that nobody reminded of."""
    rows = database.query("SELECT restarts FROM executions WHERE order_id = %s", [order_id])
    return int(rows[0][0]) if rows else None


def gauges(database: Database) -> Sequence[Gauge]:
    """How many executions are looked after."""
    [(watched, stuck)] = database.query(_COUNT)
    return (
        Gauge("executions_watched", "Executions of the state machine that are looked after", watched),
        Gauge("executions_needing_attention", "Executions that gave up and need an operator", stuck),
    )


def kept(seconds: float) -> Sequence[Kept]:
    """What ended is kept for so long."""
    return (Deleted("executions", "updated_at", seconds, only="state = 'ended'"),)
