"""Answers to requests with an `Idempotency-Key`, stored in the transaction of their effect.

An effect in one transaction claims the key's row first and stores its answer with the effect: a repeated request finds
the answer, and a concurrent one waits for the row, for at most `WAIT` seconds. A failure rolls back the claim as well,
so a refusal is never stored. An effect in several transactions (`Steps`) records each of them in the row before it
acts: a repeated request continues where the first one ended.

Source: "The Idempotency-Key HTTP Header Field",
https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from orderflow import clock
from orderflow.database import LOCK_TIMEOUT, Connection
from orderflow.database.clock_set_back import TOLERANCE
from orderflow.database.retention import Deleted, Kept
from orderflow.errors import FieldError, Problem, Transient

WAIT: Final = 2.0
"""Seconds that a request waits for another one with the same key; for other rows it waits as any transaction does."""

LEASE: Final = 30.0
"""Seconds after its last record until an effect in several transactions counts as abandoned; each one takes less."""

CLAIMED_AT: Final = datetime.min.replace(tzinfo=UTC)
"""A placeholder for the transaction's time, in an answer that is stored together with the claim."""

_CLAIMED_AT: Final = clock.rfc3339(CLAIMED_AT)

# The first `set_config` runs before the row is inserted, the second after it: so the wait for a request with the same
# key has its own limit without another statement.
_CLAIM: Final = f"""
INSERT INTO idempotency (scope, key, fingerprint, status, headers, body)
SELECT %s::bytea, %s::text, %s::bytea, %s::int, %s::text, %s::text FROM set_config('lock_timeout', '{WAIT:g}s', true)
ON CONFLICT (scope, key) DO NOTHING RETURNING created_at, set_config('lock_timeout', '{LOCK_TIMEOUT:g}s', true)
""".encode()  # noqa: S608
_KNOWN: Final = b"SELECT fingerprint, status, headers, body, created_at FROM idempotency WHERE scope = %s AND key = %s"
_STORE: Final = b"""
UPDATE idempotency SET status = %s, headers = %s, body = %s, owner = NULL, leased_until = NULL
WHERE scope = %s AND key = %s AND owner IS NOT DISTINCT FROM %s::uuid RETURNING 1
"""
_BEGIN: Final = f"""
INSERT INTO idempotency AS i (scope, key, fingerprint, owner, leased_until)
SELECT %s::bytea, %s::text, %s::bytea, %s::uuid, now() + make_interval(secs => {LEASE:g})
FROM set_config('lock_timeout', '{WAIT:g}s', true)
ON CONFLICT (scope, key) DO UPDATE SET owner = excluded.owner, leased_until = excluded.leased_until
WHERE i.status IS NULL AND i.leased_until NOT BETWEEN now() AND now() + make_interval(secs => {LEASE + TOLERANCE:g})
    AND i.fingerprint = excluded.fingerprint
RETURNING body
""".encode()  # noqa: S608
_RECORD: Final = f"""
UPDATE idempotency SET body = concat(body, %s::text), leased_until = now() + make_interval(secs => {LEASE:g})
WHERE scope = %s AND key = %s AND owner = %s::uuid RETURNING 1
""".encode()  # noqa: S608
_RELEASE: Final = b"UPDATE idempotency SET leased_until = now() WHERE scope = %s AND key = %s AND owner = %s::uuid"


@dataclass(frozen=True, slots=True)
class Key:
    """A key within its `scope` (caller and route, SHA-256), for one request (`fingerprint`, SHA-256)."""

    scope: bytes
    value: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer as it is stored: status, body, and the headers that a repeated request gets again."""

    status: int
    body: str
    headers: Mapping[str, str]

    def at(self, moment: datetime) -> Reply:
        """The reply with the transaction's time in place of CLAIMED_AT."""
        return replace(self, body=self.body.replace(_CLAIMED_AT, clock.rfc3339(moment)))


def claim(connection: Connection, key: Key, foreseen: Reply | None = None) -> Callable[[], datetime | None]:
    """Claims a key, as the first statement of its transaction. The statement is sent now; calling the result returns
    the time of the transaction, or None if the key is known. That call raises Problem (503) if a request with the same
    key takes too long.

    `foreseen`: the answer, if it is known before the effect; then `store` is not needed."""
    stored = _columns(foreseen) if foreseen else [None, None, None]
    cursor = connection.execute(_CLAIM, [key.scope, key.value, key.fingerprint, *stored])

    def claimed() -> datetime | None:
        try:
            rows = cursor.fetchall()
        except psycopg.errors.LockNotAvailable:
            raise in_progress() from None
        return rows[0][0] if rows else None

    return claimed


def store(connection: Connection, key: Key, reply: Reply) -> None:
    """Stores the answer under a key that this transaction has claimed."""
    connection.execute(_STORE, [*_columns(reply), key.scope, key.value, None])


def known(connection: Connection, key: Key) -> Reply:
    """The answer under a known key.

    Raises Problem: 422 if the key was used for another request, 503 if its request has not ended; and Transient if the
    key has been pruned since."""
    rows = connection.execute(_KNOWN, [key.scope, key.value]).fetchall()
    if not rows:
        raise Transient("the idempotency key was pruned just now")
    [(fingerprint, status, headers, body, created_at)] = rows
    if bytes(fingerprint) != key.fingerprint:
        raise reused()
    if status is None:
        raise in_progress()
    return Reply(status, body, json.loads(headers)).at(created_at)


class Steps:
    """An effect in several transactions under one key, which this request holds until it has ended."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._owner = clock.new_id()
        self.recorded: Sequence[Any] = ()
        """The records, in order, of earlier requests with this key that died or whose answer was lost."""

    def begin(self, connection: Connection) -> bool:
        """Claims the key, or takes it over from an abandoned request; False if the key is known otherwise (`known` says
        how). Raises Problem (503) if a request with the same key takes too long."""
        key = self._key
        try:
            rows = connection.execute(_BEGIN, [key.scope, key.value, key.fingerprint, self._owner]).fetchall()
        except psycopg.errors.LockNotAvailable:
            raise in_progress() from None
        self.recorded = [json.loads(line) for line in (rows[0][0] or "").splitlines()] if rows else ()
        return bool(rows)

    def record(self, connection: Connection, entries: Sequence[Any]) -> None:
        """Records JSON values in a transaction before they are acted on. Raises Transient if another request has taken
        over."""
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        self._mine(connection.execute(_RECORD, [lines, self._key.scope, self._key.value, self._owner]).fetchall())

    def finish(self, connection: Connection, reply: Reply) -> None:
        """Stores the answer. Raises Transient if another request has taken over."""
        asked = [*_columns(reply), self._key.scope, self._key.value, self._owner]
        self._mine(connection.execute(_STORE, asked).fetchall())

    def release(self, connection: Connection) -> None:
        """Lets a repeated request continue at once."""
        connection.execute(_RELEASE, [self._key.scope, self._key.value, self._owner])

    def _mine(self, rows: Sequence[Any]) -> None:
        if not rows:
            raise Transient("a repeat with the same idempotency key has taken over")


def kept(seconds: float) -> Sequence[Kept]:
    """Keeps keys for `seconds`. Without partitions, because a key must be unique over all of them."""
    return (Deleted("idempotency", "created_at", seconds),)


def in_progress() -> Problem:
    """503: the first request with a key has not ended."""
    detail = "the first request with this Idempotency-Key has not ended; repeat it with the same key"
    return Problem(503, "Request in progress", detail, headers={"Retry-After": "1"})


def reused() -> Problem:
    """422: a key was used for another request."""
    wrong = FieldError("/Idempotency-Key", "was used for another request; take a new key for each")
    return Problem(422, "Idempotency key reused", wrong.detail, (wrong,))


def _columns(reply: Reply) -> list[Any]:
    return [reply.status, json.dumps(dict(reply.headers)), reply.body]
