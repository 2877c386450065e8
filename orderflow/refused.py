"""Messages that the broker refused for good: they stay in the outbox, and operators find them among the dead letters.

Their orders need no one for that: an owner that hears nothing sends again, and undoes in the end (see docs/adr/0023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orderflow import clock
from orderflow.bus import HOLD, DeadLetter, DeadLetterQueue
from orderflow.database import Database

_DEPTH: Final = "SELECT count(*) FROM outbox WHERE parked IS NOT NULL"
_TAKE: Final = """
UPDATE outbox SET leased_until = now() + make_interval(secs => %s)
WHERE entry IN (
    SELECT entry FROM outbox WHERE parked IS NOT NULL AND leased_until <= now()
    ORDER BY entry LIMIT %s FOR UPDATE SKIP LOCKED
)
RETURNING entry::text, body, parked
"""
_GIVE_BACK: Final = "UPDATE outbox SET leased_until = now() WHERE entry = ANY(%s::uuid[]) AND parked IS NOT NULL"
_SEND: Final = """
UPDATE outbox SET parked = NULL, leased_until = now() WHERE entry = ANY(%s::uuid[]) AND parked IS NOT NULL
RETURNING entry::text
"""
_DELETE: Final = "DELETE FROM outbox WHERE entry = ANY(%s::uuid[]) AND parked IS NOT NULL"


class RefusedMessages(DeadLetterQueue):
    """See `DeadLetterQueue`. Redriven ones are sent by the next relay, where they would have gone.

    Every method raises DatabaseUnavailable, in place of BrokerUnavailable."""

    def __init__(self, database: Database, service: str) -> None:
        self.name = f"{service}-outbox"
        self._database = database

    def depth(self) -> int:
        [(count,)] = self._database.query(_DEPTH)
        return int(count)

    def take(self, limit: int) -> list[DeadLetter]:
        # A lease serves as the visibility timeout: nobody else sends what is parked.
        return [
            DeadLetter(self.name, entry, body, parked, clock.minted_at(entry), receives=None, receipt=entry)
            for entry, body, parked in sorted(self._database.query(_TAKE, [HOLD, limit]))
        ]

    def give_back(self, letters: Sequence[DeadLetter]) -> None:
        self._change(_GIVE_BACK, letters)

    def redrive(self, letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
        sent = self._change(_SEND, letters)
        return [letter for letter in letters if letter.receipt in sent]

    def discard(self, letters: Sequence[DeadLetter]) -> None:
        self._change(_DELETE, letters)

    def _change(self, sql: str, letters: Sequence[DeadLetter]) -> set[str]:
        if not letters:
            return set()
        return {entry for (entry,) in self._database.query(sql, [[letter.receipt for letter in letters]])}
