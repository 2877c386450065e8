"""The intents of one service: which provider call an order needs, which process makes it, and its outcome.

An intent is committed before its call, so that after any crash it is known that the call may have taken effect. Its
*fence* grows with every claim; an answer counts only if the fence is still the one it was asked under.
On fencing: M. Kleppmann, "How to do distributed locking", 2016.

An intent whose call got no answer waits in a second table (`orderflow.providers.waits`), not in a queue.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import sql

from orderflow.database import Connection, Database
from orderflow.database.clock_set_back import Ahead
from orderflow.database.holders import Rows
from orderflow.database.partitions import BUSINESS, Partitioned
from orderflow.database.retention import Kept

INTENDED: Final = "intended"
DONE: Final = "done"
REFUSED: Final = "refused"
UNDOING: Final = "undoing"
UNDONE: Final = "undone"

# One statement for both kinds: two would lock their rows one after the other, and concurrent processes could deadlock.
# It returns exactly the rows that are claimed now: the new ones, and those whose WHERE held under the row's lock.
# Waiting calls are retried at their own pace: only a compensation claims them from there.
_TAKE: Final = """
INSERT INTO {table} AS known (order_id, state, fence, lease_until, request)
SELECT o, CASE WHEN u THEN 'undoing' ELSE 'intended' END, 1, now() + make_interval(secs => %s), r::jsonb
FROM unnest(%s::uuid[], %s::bool[], %s::text[]) AS asked(o, u, r) ORDER BY o
ON CONFLICT (order_id) DO UPDATE
SET state = excluded.state, fence = known.fence + 1, lease_until = excluded.lease_until, updated_at = now()
WHERE CASE WHEN known.state = excluded.state
           THEN (known.lease_until IS NULL OR known.lease_until <= now() OR known.updated_at > now() + interval '1 min')
                AND NOT EXISTS (
                    SELECT FROM {waits} AS w WHERE w.order_id = known.order_id AND w.undo = (known.state = 'undoing')
                )
           ELSE excluded.state = 'undoing' AND known.state <> 'undone' END
RETURNING order_id::text, fence, request, extract(epoch FROM now() - created_at)::float8
"""
_SETTLE: Final = """
WITH answered AS (
    SELECT a.*
    FROM unnest(%s::uuid[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
        AS a(o, fence, asked, state, reference, reason, result)
    JOIN {table} AS locked ON locked.order_id = o AND locked.fence = a.fence AND locked.state = a.asked
    ORDER BY o FOR UPDATE OF locked
)
UPDATE {table} AS known
SET state = answered.state, reference = coalesce(answered.reference, known.reference), reason = answered.reason,
    result = answered.result::jsonb, lease_until = NULL, updated_at = now()
FROM answered WHERE known.order_id = o
"""
_LOCK: Final = "SELECT FROM {table} WHERE order_id = ANY(%s::uuid[]) ORDER BY order_id FOR UPDATE"
_READ: Final = """
SELECT order_id::text, state, fence, request, reference, reason, result, created_at, updated_at,
       w.undo, w.asking, w.resend, w.tries
FROM unnest(%s::uuid[]) AS asked(o) JOIN {table} ON order_id = asked.o LEFT JOIN {waits} AS w USING (order_id)
"""


@dataclass(frozen=True, slots=True)
class Request:
    """The call that an order needs: `request` is its data, None for a compensation (`undo`)."""

    order_id: str
    undo: bool
    request: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """An intent that this process holds until its lease ends. `age`: seconds since it was created."""

    order_id: str
    undo: bool
    fence: int
    request: dict[str, Any]
    age: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The new state of a claimed intent. An unchanged state releases it for a retry."""

    taken: Claim
    state: str
    reference: str | None = None
    reason: str = ""
    result: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that waits for the answer to an order's call: its encoded envelope, whether it asks for a compensation,
    how often it was resent; and how many calls in a row had no answer."""

    order_id: str
    undo: bool
    asking: str
    resend: int
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Intent:
    """The business row of an order, from which every outcome is derived. The state `undone` is final: a tombstone that
    rejects a late command."""

    order_id: str
    state: str
    fence: int
    request: dict[str, Any]
    reference: str | None
    reason: str
    result: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    waiting: Waiting | None = None


def waits(name: str) -> str:
    """The name of the table of waiting calls for the intents table `name`."""
    return f"{name}_waiting"


def ahead(name: str) -> Sequence[Ahead]:
    """Waiting calls that nobody would make for long."""
    return (Ahead(waits(name), "order_id", "next_at", "next_at = now()"),)


def kept(name: str) -> Sequence[Kept]:
    """Keeps intents forever: a compensated one is the tombstone that rejects a late command."""
    return (Partitioned(name, "order_id", by_id=True, keep=None, width=BUSINESS, storage="fillfactor = 70"),)


class Intents:
    """The statements on one table, each for a whole batch in which every order occurs once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = Rows(name, "order_id")
        self._take, self._settle, self._lock, self._read = (
            sql.SQL(statement).format(table=sql.Identifier(name), waits=sql.Identifier(waits(name))).as_bytes(None)
            for statement in (_TAKE, _SETTLE, _LOCK, _READ)
        )

    def take(self, connection: Connection, asked: Sequence[Request], lease: float) -> dict[str, Claim]:
        """Claims, for `lease` seconds, the intents that need a call; by order. Omits intents that are settled or
        compensated, that another process holds, or that wait already.

        A compensation takes over the intent of a call in flight by raising the fence.
        """
        undo = {a.order_id: a.undo for a in asked}
        rows = connection.execute(
            self._take,
            [
                lease,
                list(undo),
                list(undo.values()),
                [None if a.request is None else json.dumps(a.request) for a in asked],
            ],
        )
        return {o: Claim(o, undo[o], fence, request or {}, age) for o, fence, request, age in rows}

    def settle(self, connection: Connection, settled: Sequence[Outcome]) -> None:
        """Records the outcomes of calls, unless another process has claimed the order meanwhile."""
        connection.execute(
            self._settle,
            [
                [s.taken.order_id for s in settled],
                [s.taken.fence for s in settled],
                [UNDOING if s.taken.undo else INTENDED for s in settled],
                [s.state for s in settled],
                [s.reference for s in settled],
                [s.reason[:500] for s in settled],
                [None if s.result is None else json.dumps(s.result) for s in settled],
            ],
        )

    def read(self, connection: Connection, order_ids: Iterable[str]) -> dict[str, Intent]:
        """The rows of these orders, by id."""
        return {row[0]: _intent(row) for row in connection.execute(self._read, [list(order_ids)])}

    def read_locked(self, connection: Connection, order_ids: Iterable[str]) -> dict[str, Intent]:
        """The same rows, locked until the transaction ends. Waiting entries are changed only under this lock."""
        order_ids = list(order_ids)
        connection.execute(self._lock, [order_ids])
        return self.read(
            connection, order_ids
        )  # a separate statement: a join would not see what was committed while the lock waited

    def find(self, database: Database, order_id: str) -> Intent | None:
        """One order's row; None if there is none."""
        found = database.query(self._read.decode(), [[order_id]])
        return _intent(found[0]) if found else None


def _intent(row: Any) -> Intent:
    order_id, state, fence, request, reference, reason, result, created_at, updated_at, undo, asking, resend, tries = (
        row
    )
    waiting = None if asking is None else Waiting(order_id, undo, asking, resend, tries)
    return Intent(
        order_id, state, fence, request or {}, reference, reason, result or {}, created_at, updated_at, waiting
    )
