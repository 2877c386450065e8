"""The part of the outbox that nobody has in memory: claimed destination by destination, and given back.

That is what its process has no room for, what a process that died had not sent, and what a destination did not take.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from orderflow.broker import Parcel
from orderflow.database import Database
from orderflow.database.unreadable import PutAside
from orderflow.envelope import decode
from orderflow.routing import Channel

_CLAIM: Final = b"""
UPDATE outbox SET leased_until = now() + make_interval(secs => %s)
WHERE entry = ANY(ARRAY(
    SELECT entry FROM outbox WHERE channel = %s AND target = %s AND parked IS NULL AND leased_until <= now()
    ORDER BY leased_until LIMIT %s FOR UPDATE SKIP LOCKED
))
RETURNING entry, body, attempts
"""
_DESTINATIONS: Final = """
WITH RECURSIVE found AS (
    (SELECT channel, target FROM outbox WHERE parked IS NULL ORDER BY channel, target LIMIT 1)
    UNION ALL
    SELECT following.channel, following.target FROM found CROSS JOIN LATERAL (
        SELECT channel, target FROM outbox
        WHERE parked IS NULL AND (channel, target) > (found.channel, found.target) ORDER BY channel, target LIMIT 1
    ) AS following
)
SELECT channel, target FROM found WHERE EXISTS (
    SELECT FROM outbox AS o
    WHERE o.channel = found.channel AND o.target = found.target AND parked IS NULL AND leased_until <= now()
)
"""
"""A step in the index per destination, not per message."""
_POSTPONE: Final = """
UPDATE outbox SET attempts = least(attempts + 1, 1000), leased_until = now() + make_interval(secs => later.seconds)
FROM unnest(%s::uuid[], %s::float[]) AS later(entry, seconds) WHERE outbox.entry = later.entry AND parked IS NULL
"""
_RELEASE: Final = "UPDATE outbox SET leased_until = now() WHERE entry = ANY(%s::uuid[]) AND parked IS NULL"
_ASIDE: Final = PutAside("outbox", key="entry", due="leased_until")
_MARGIN: Final = 0.2
"""Part of a lease in which its process no longer begins to send."""

_ASIDE_AT_ONCE: Final = 1000
"""Messages of a channel that this release doesn't know, put aside in one transaction."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One staged message. After `lease_ends` (monotonic seconds; 0: nobody has it yet) it may be another process's.
    `staged`: when it was staged, by the same clock; of one that was claimed this is not known, so it counts as late.
    `attempts`: how often it was not taken while others were."""

    id: str
    channel: Channel
    target: str
    parcel: Parcel
    lease_ends: float
    staged: float = -inf
    attempts: int = 0

    @property
    def order_id(self) -> str:
        return self.parcel.envelope.subject

    @property
    def leased(self) -> bool:
        """Whether this process may send it."""
        return self.lease_ends != 0.0


@dataclass(frozen=True, slots=True)
class Claim:
    """Messages that this process may send, oldest first. `full`: more may be waiting."""

    entries: Sequence[Entry]
    full: bool


class Backlog:
    """What waits in one database's outbox. Whoever claims has `lease` seconds to send. Every method raises
    DatabaseUnavailable."""

    def __init__(self, database: Database, lease: float) -> None:
        self._database = database
        self._lease = lease
        self.margin = lease * _MARGIN
        """Seconds from when its process lets go of a message until others may have it."""

    def claim(self, channel: str, target: str, limit: int) -> Claim:
        """Leases messages for one destination that nobody has, those that have waited longest. Never by a cursor: a
        lower id may commit later. Those that this release can't read are put aside."""
        lease_ends = time.monotonic() + self._lease - self.margin

        def entry(row: Sequence[Any]) -> Entry:
            found, body, attempts = row
            parcel = Parcel(decode(body), body)
            return Entry(str(found), Channel(channel), target, parcel, lease_ends, attempts=attempts)

        while True:
            with self._database.transaction() as connection:
                rows = sorted(connection.execute(_CLAIM, [self._lease, channel, target, limit]).fetchall())
                found = _ASIDE.read(rows, entry, connection.execute)
            full = len(rows) == limit
            if found or not full:
                return Claim(found, full)

    def destinations(self) -> list[tuple[Channel, str]]:
        """Those for which something waits that nobody has.

        Where this release knows no such channel, what waits for it is put aside."""
        known = {channel.value for channel in Channel}
        found = []
        for channel, target in self._database.query(_DESTINATIONS):
            if channel in known:
                found.append((Channel(channel), target))
            else:
                self.claim(channel, target, _ASIDE_AT_ONCE)
        return found

    def postpone(self, entries: Sequence[Entry], seconds: Sequence[float]) -> None:
        """Gives each of these, which were not taken, a retry time; until then nobody has them."""
        self._database.query(_POSTPONE, [[entry.id for entry in entries], list(seconds)])

    def release(self, entries: Sequence[Entry]) -> None:
        """Gives messages back unsent: whoever has room claims them."""
        if entries:
            self._database.query(_RELEASE, [[entry.id for entry in entries]])
