"""The transactional outbox: messages are stored in the transaction that causes them, and sent after its commit.

A staged message is leased to the process that staged it, which sends it at once (`messaging.publisher`). If that
process has no room, the message gets no lease; if it doesn't send in time, the lease expires. Any process may then
claim the message, per destination. Sent messages are deleted together with the next batch. Source of the pattern: C.
Richardson, "Transactional outbox", https://microservices.io/patterns/data/transactional-outbox.html
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import structlog

from orderflow import clock, failpoints, telemetry
from orderflow.broker import Parcel
from orderflow.contracts import MESSAGES
from orderflow.database import Connection, Database
from orderflow.database.clock_set_back import Ahead
from orderflow.envelope import MAX_BYTES, Envelope
from orderflow.errors import Contended, Unsendable
from orderflow.messaging.backlog import Backlog, Entry
from orderflow.messaging.late import Late, Restart
from orderflow.routing import Channel, route_of

log = structlog.get_logger(__name__)

_STAGE: Final = b"""
INSERT INTO outbox (entry, order_id, channel, target, body, leased_until)
SELECT e, o, c, t, b, now() + make_interval(secs => l)
FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::text[], %s::float[]) AS staged(e, o, c, t, b, l)
"""
_DELETE: Final = b"DELETE FROM outbox WHERE entry = ANY(%s::uuid[])"
# Locked rows stay: they are sent once more when their lease has expired, which is harmless, and deleted then.
_DELETE_UNLOCKED: Final = """
DELETE FROM outbox WHERE entry IN (SELECT entry FROM outbox WHERE entry = ANY(%s::uuid[]) FOR UPDATE SKIP LOCKED)
"""
AHEAD: Final = (Ahead("outbox", "entry", "leased_until", "leased_until = now()"),)
"""Messages that nobody would send, or show as dead letters, for long."""
_PARK: Final = b"UPDATE outbox SET parked = %s, leased_until = now() WHERE entry = %s::uuid"


class Addressed(NamedTuple):
    """A message with its destination."""

    channel: Channel
    target: str
    parcel: Parcel


@dataclass(slots=True)
class UnitOfWork:
    """A unit of work: one transaction, and the messages that it causes. `locked`: the result of `Locks.lock`."""

    connection: Connection
    staged: list[Addressed] = field(default_factory=list)
    locked: Any = None

    def stage(self, envelopes: Sequence[Envelope]) -> None:
        """Adds messages; they are sent by the routing table, once the transaction has committed.

        Raises Unsendable for a message that has no route: raised here, it counts against the message that caused it. In
        the outbox, nobody would handle it.
        """
        self.staged.extend([found for envelope in envelopes if (found := _addressed(envelope))])


class Outbox:
    """The outbox of one database. After each commit, `on_staged` is called with the messages that were staged. `takes`
    is called before, per destination: it says whether this process may send them at once."""

    def __init__(self, database: Database, *, lease: float) -> None:
        self._database = database
        self._lease = lease
        self.backlog = Backlog(database, lease)
        self._sent: deque[str] = deque()
        self._contended: deque[str] = deque()
        """Sent entries that `flush` deletes, so that no message waits for their locked rows."""
        self.on_staged: Callable[[Sequence[Entry]], None] = lambda entries: None
        self.takes: Callable[[Channel, str], bool] = lambda channel, target: True
        self._late: Late | None = None

    @property
    def database(self) -> Database:
        """The database that contains it."""
        return self._database

    @contextmanager
    def transaction(self, *, lock_timeout: float | None = None) -> Iterator[UnitOfWork]:
        """A unit of work in one transaction. The messages that it stages are stored in it, and passed to the publisher
        after the commit. `lock_timeout` as in `Database.transaction`.

        Raises DatabaseUnavailable; then nothing has happened, unless it is CommitUnanswered.
        """
        sent: list[str] = []
        with suppress(IndexError):  # several threads empty it at the same time
            while True:
                sent.append(self._sent.popleft())
        try:
            with (
                telemetry.transaction(self._database.name),
                self._database.transaction(lock_timeout=lock_timeout) as connection,
            ):
                unit = UnitOfWork(connection)
                yield unit
                entries = self._store(connection, unit.staged)
                if sent:
                    connection.execute(_DELETE, [sent])
                failpoints.reached("commit.before")
        except Contended:
            self._contended.extend(sent)  # one of these may be the locked row, which would fail all later transactions
            raise
        except BaseException:
            self._sent.extendleft(sent)
            raise
        failpoints.reached("commit.after")
        if entries:
            self.on_staged(entries)

    def _store(self, connection: Connection, messages: Sequence[Addressed]) -> list[Entry]:
        staged = time.monotonic()
        lease_ends = staged + self._lease - self.backlog.margin
        entries = [
            Entry(clock.new_id(), *message, lease_ends if self.takes(message.channel, message.target) else 0.0, staged)
            for message in messages
        ]
        if entries:
            connection.execute(
                _STAGE,
                [
                    [e.id for e in entries],
                    [e.parcel.envelope.subject for e in entries],
                    [e.channel.value for e in entries],
                    [e.target for e in entries],
                    [e.parcel.body for e in entries],
                    [self._lease if e.leased else 0.0 for e in entries],
                ],
            )
        return entries

    def restart_clocks(self, restart: Restart) -> None:
        """Makes this the outbox of an owner: messages sent late restart deadlines (`orderflow.messaging.late`)."""
        self._late = Late(self._database, restart, _DELETE)

    def sent(self, entries: Sequence[Entry]) -> None:
        """Records that these have been sent; the next transaction deletes them, or `flush` if they were late."""
        self._sent.extend(entry.id for entry in entries if not (self._late and self._late.note(entry)))

    def flush(self) -> None:
        """Deletes sent messages if no other transaction has done so. Raises DatabaseUnavailable."""
        if self._late:
            self._late.flush()
        contended = [self._contended.popleft() for _ in range(len(self._contended))]
        if contended:
            self._database.query(_DELETE_UNLOCKED, [contended])
        if self._sent:
            with self.transaction():
                failpoints.reached("mark.before")
            failpoints.reached("mark.after")

    def park(self, unit: UnitOfWork, entry: Entry, reason: str) -> None:
        """Keeps a message that the broker will never accept as a dead letter; only an operator can resend it."""
        unit.connection.execute(_PARK, [reason[:1000], entry.id])


def _addressed(envelope: Envelope) -> Addressed | None:
    """None for a message that stays inside its service. Raises Unsendable."""
    asked = envelope.tasktoken is not None
    try:
        cell = route_of(envelope.workflow, MESSAGES[envelope.name], resend=envelope.resend, token=asked)
    except LookupError as error:
        raise Unsendable(f"{envelope.name} can't be sent: {error}") from error
    if cell.channel is Channel.NONE:
        return None
    target = envelope.eventbus.value if cell.channel is Channel.BUS else cell.listeners[0]
    body = envelope.encode()
    if len(body) > MAX_BYTES:
        raise Unsendable(f"{envelope.name} takes {len(body)} bytes, over the cap of {MAX_BYTES}")
    return Addressed(cell.channel, target, Parcel(envelope, body))
