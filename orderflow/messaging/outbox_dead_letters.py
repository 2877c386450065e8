"""Messages that the broker refused permanently: they stay in the outbox, and operators find them as dead letters.

docs/adr/0023 says what happens to their orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orderflow import clock
from orderflow.broker import HOLD, DeadLetter, DeadLetterQueue
from orderflow.database import Connection, Database

_DEPTH: Final = "SELECT count(*) FROM outbox WHERE parked IS NOT NULL"
# An array, not `IN (SELECT …)`: as a join, the planner may run the limited SELECT per row, each time for other rows.
_TAKE: Final = """
UPDATE outbox SET leased_until = now() + make_interval(secs => %s)
WHERE entry = ANY(ARRAY(
    SELECT entry FROM outbox WHERE parked IS NOT NULL AND leased_until <= now()
    ORDER BY entry LIMIT %s FOR UPDATE SKIP LOCKED
))
RETURNING entry::text, body, parked
"""
_GIVE_BACK: Final = "UPDATE outbox SET leased_until = now() WHERE entry = ANY(%s::uuid[]) AND parked IS NOT NULL"
_SEND: Final = """
UPDATE outbox SET entry = again.entry, parked = NULL, leased_until = now()
FROM unnest(%s::uuid[], %s::uuid[]) AS again(parked, entry)
WHERE outbox.entry = again.parked AND outbox.parked IS NOT NULL
RETURNING again.parked::text
"""
"""Gives it a new entry id: its age then says how long it has waited to be sent, and a process that held the old entry
can't dead-letter it again."""
_DELETE: Final = "DELETE FROM outbox WHERE entry = ANY(%s::uuid[]) AND parked IS NOT NULL"
_REFUSED: Final = b"""
SELECT DISTINCT ON (order_id) order_id::text, parked FROM outbox
WHERE parked IS NOT NULL AND order_id = ANY(%s::uuid[]) ORDER BY order_id, entry DESC
"""


def refused(connection: Connection, order_ids: Sequence[str]) -> dict[str, str]:
    """Those of these orders that have refused messages, with the reason."""
    return dict(connection.execute(_REFUSED, [list(order_ids)]).fetchall())


class RefusedMessages(DeadLetterQueue):
    """See `DeadLetterQueue`; every method raises DatabaseUnavailable instead of BrokerUnavailable.

    The relay sends redriven messages to their original destination."""

    def __init__(self, database: Database, service: str) -> None:
        self.name = f"{service}-outbox"
        self._database = database

    def depth(self) -> int:
        [(count,)] = self._database.query(_DEPTH)
        return int(count)

    def take(self, limit: int) -> list[DeadLetter]:
        # A lease serves as the visibility timeout: dead letters are not sent, so nobody else uses it.
        return [
            DeadLetter(self.name, entry, body, parked, clock.minted_at(entry), receives=None, receipt=entry)
            for entry, body, parked in sorted(self._database.query(_TAKE, [HOLD, limit]))
        ]

    def give_back(self, letters: Sequence[DeadLetter]) -> None:
        self._database.query(_GIVE_BACK, [_entries(letters)])

    def redrive(self, letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
        new = [clock.new_id() for _ in letters]
        sent = {entry for (entry,) in self._database.query(_SEND, [_entries(letters), new])}
        return [letter for letter in letters if letter.receipt in sent]

    def discard(self, letters: Sequence[DeadLetter]) -> None:
        self._database.query(_DELETE, [_entries(letters)])


def _entries(letters: Sequence[DeadLetter]) -> list[str]:
    return [letter.receipt for letter in letters]
