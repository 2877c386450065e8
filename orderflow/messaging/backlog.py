"""The part of the outbox that no process has in memory: claimed per destination, and released again.

These are messages for which their process had no room, messages that a process had not sent when it died, and messages
that a destination did not accept.
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
"""Takes one step in the index per destination, not per message."""
_POSTPONE: Final = """
UPDATE outbox SET attempts = least(attempts + 1, 1000), leased_until = now() + make_interval(secs => later.seconds)
FROM unnest(%s::uuid[], %s::float[]) AS later(entry, seconds) WHERE outbox.entry = later.entry AND parked IS NULL
"""
_RELEASE: Final = "UPDATE outbox SET leased_until = now() WHERE entry = ANY(%s::uuid[]) AND parked IS NULL"
_ASIDE: Final = PutAside("outbox", key="entry", due="leased_until")
_MARGIN: Final = 0.2
"""The last part of a lease, in which the process no longer begins to send."""

_POSTPONED_AT_ONCE: Final = 1000
"""Messages of a channel unknown to this release that are postponed in one transaction."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One staged message. After `lease_ends` (monotonic seconds; 0: not leased yet) another process may claim it.
    `staged`: when it was staged, by the same clock; for a claimed message this is unknown, so it counts as late.
    `attempts`: how often it was not accepted while others were."""

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
    """Messages that this process may send, oldest first. `full`: there may be more."""

    entries: Sequence[Entry]
    full: bool


class Backlog:
    """The waiting messages of one database's outbox. A process that claims some has `lease` seconds to send them. Every
    method raises DatabaseUnavailable."""

    def __init__(self, database: Database, lease: float) -> None:
        self._database = database
        self._lease = lease
        self.margin = lease * _MARGIN
        """Seconds between a process's last moment to send a message and the end of its lease."""

    def claim(self, channel: str, target: str, limit: int) -> Claim:
        """Leases unleased messages for one destination, those first that have waited longest. It uses no cursor: a
        lower id may commit later. Messages that this release can't read are postponed."""
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
        """The destinations that have unleased messages.

        Messages for a channel that this release doesn't know are postponed."""
        known = {channel.value for channel in Channel}
        found = []
        for channel, target in self._database.query(_DESTINATIONS):
            if channel in known:
                found.append((Channel(channel), target))
            else:
                self.claim(channel, target, _POSTPONED_AT_ONCE)
        return found

    def postpone(self, entries: Sequence[Entry], seconds: Sequence[float]) -> None:
        """Gives each of these messages, which were not accepted, a retry time; until then no process has them."""
        self._database.query(_POSTPONE, [[entry.id for entry in entries], list(seconds)])

    def release(self, entries: Sequence[Entry]) -> None:
        """Releases unsent messages: any process with room claims them."""
        if entries:
            self._database.query(_RELEASE, [[entry.id for entry in entries]])
