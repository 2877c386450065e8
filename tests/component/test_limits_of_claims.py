"""A claim leases as many rows as it was asked for, whatever plan the database has for it.

Statistics of a table with one row make it plan for one row: as a join, a limited subselect is then run once per row,
and each time it skips the rows that it has locked before.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from contextlib import closing

import pytest

from orchestrator import watched_executions
from orderflow.database import Database
from orderflow.messaging.backlog import Backlog
from orderflow.messaging.outbox_dead_letters import RefusedMessages
from tests.support.placed import placed

_STAGED = """
INSERT INTO outbox (entry, order_id, channel, target, body, leased_until, parked)
VALUES (%(id)s, %(id)s, 'queue', 'order', %(body)s, now(), {parked})
"""
_WATCHED = "INSERT INTO executions (order_id, placed) VALUES (%(id)s, %(body)s)"


def _refused(database: Database, limit: int) -> Sized:
    return RefusedMessages(database, "orchestrator").take(limit)


def _waiting(database: Database, limit: int) -> Sized:
    return Backlog(database, 60).claim("queue", "order", limit).entries


def _watched(database: Database, limit: int) -> Sized:
    return watched_executions.claim(database, 60, limit)[0]


CLAIMS: dict[str, tuple[str, str, Callable[[Database, int], Sized]]] = {
    "dead letters": ("outbox", _STAGED.format(parked="'too long'"), _refused),
    "messages": ("outbox", _STAGED.format(parked="NULL"), _waiting),
    "executions": ("executions", _WATCHED, _watched),
}


@pytest.mark.parametrize("claimed", CLAIMS)
def test_a_claim_keeps_to_its_limit(new_database: Callable[[str | None], str], claimed: str) -> None:
    """The others are left for who asks next."""
    table, add, claim = CLAIMS[claimed]
    database = Database(new_database("orchestrator"), size=1)
    database.open()
    with closing(database):
        for rows in (1, 4):
            for message in [placed() for _ in range(rows)]:
                database.query(add, {"id": message.subject, "body": message.encode()})
            if rows == 1:
                database.query(f"ANALYZE {table}")
        assert [len(claim(database, 2)) for _ in range(4)] == [2, 2, 1, 0]
