"""Ids and times. Deadlines never use this clock, only the database's."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils


def new_id() -> str:
    """A new UUIDv7 (RFC 9562): unique, and sorted by the time it was minted."""
    return str(uuid_utils.uuid7())


def is_id(text: str) -> bool:
    """Whether `text` is a UUID in its canonical lower-case form."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def minted_at(minted: str) -> datetime:
    """When a UUIDv7 was minted."""
    return datetime.fromtimestamp(seconds_of(minted), UTC)


def age(minted: str) -> float:
    """Seconds since a UUIDv7 was minted, by this process's clock; 0 for one from the future."""
    return max(0.0, time.time() - seconds_of(minted))


def first_id(seconds: float) -> str:
    """The lowest UUIDv7 of a time (seconds since 1970, UTC): every id that was minted earlier is lower."""
    bits = f"{int(seconds * 1000):012x}"
    return f"{bits[:8]}-{bits[8:]}-0000-0000-000000000000"


def seconds_of(minted: str) -> float:
    """Seconds since 1970 at which a UUIDv7 was minted."""
    # RFC 9562, 5.7: the first 48 bits are milliseconds. A foreign id may lie in a year that datetime can't represent.
    return int(minted.replace("-", "")[:12], 16) / 1000


def utc_now() -> datetime:
    """This process's time, in UTC. For display, never for decisions."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """`2026-01-31T09:00:00.123Z`: RFC 3339, in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
