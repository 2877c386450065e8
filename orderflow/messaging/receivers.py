"""The watermark of a service's queue, combined from all its processes in the service's database.

Each process that receives messages reports about once per second. A killed process counts until the messages that it
held are visible again. If a message is hidden for longer than that, its order is recorded before.
Its tables: `database/migrations/frozen/0002_watermark.sql`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from orderflow import clock
from orderflow.database import Database
from orderflow.database.clock_set_back import Ahead
from orderflow.database.retention import Deleted
from orderflow.messaging.watermark import CALM, SETTLED, Watermark
from orderflow.saga.answers import Answers
from orderflow.settings import Settings

_FRESH: Final = 5.0
"""Seconds of silence after which a process may have died."""

_FORGOTTEN: Final = 3600.0
"""Seconds after which the messages of a dead process can't matter: every other process has reported since."""

KEPT: Final = (
    Deleted("receivers", "reported_at", _FORGOTTEN),
    Deleted("given_back", "until", _FORGOTTEN),
)
"""Removes rows of processes that ended, and of messages that became visible again, long ago."""

AHEAD: Final = (
    Ahead(
        "receivers", "id", "reported_at", f"reported_at = now() - interval '{_FRESH + 1} s', empty_from = NULL,"
        " received_at = NULL, calm = NULL, oldest = NULL, blocked_until = NULL", noted=True,
    ),
    Ahead("given_back", "order_id", "until", "until = now()"),
    Ahead(
        "watches", "one", "greatest(heard_at, resumed_at)", "heard_at = least(heard_at, now()),"
        " resumed_at = least(resumed_at, now())", noted=True,
    ),
    Ahead(
        "frontiers", "service", "greatest(asked_at, answered_at)", "asked_at = least(asked_at, now()),"
        " answered_at = least(answered_at, now())", noted=True,
    ),
)  # fmt: skip
"""Rows that would be trusted for as long as the clock had been ahead. Their process then counts as one that may have
died; if it is alive, it reports again within a second."""

_DEAF: Final = 5.0
"""Seconds without a check that never count as downtime, however short the owner's own times are."""

_MARGIN: Final = 1.0
"""Seconds that a statement may take to reach the database."""

_REPORT: Final = b"""
INSERT INTO receivers (id, reported_at, empty_from, received_at, calm, oldest, blocked_until)
VALUES (%(id)s, now(), to_timestamp(%(empty_from)s), to_timestamp(%(received_at)s), %(calm)s, to_timestamp(%(oldest)s),
    to_timestamp(%(blocked_until)s))
ON CONFLICT (id) DO UPDATE SET reported_at = now(), empty_from = excluded.empty_from,
    received_at = excluded.received_at, calm = excluded.calm, oldest = excluded.oldest,
    blocked_until = excluded.blocked_until
RETURNING extract(epoch FROM clock_timestamp())::float
"""
_ANSWERED: Final = b"""
INSERT INTO frontiers AS f (service, asked_at, answered_at)
SELECT s, now() - make_interval(secs => a), now() - make_interval(secs => m)
FROM unnest(%s::text[], %s::float[], %s::float[]) AS x(s, a, m)
ORDER BY s
ON CONFLICT (service) DO UPDATE SET asked_at = greatest(f.asked_at, excluded.asked_at),
    answered_at = greatest(f.answered_at, excluded.answered_at)
"""
_HEARD: Final = b"""
INSERT INTO watches AS w (heard_at, resumed_at) VALUES (now(), now())
ON CONFLICT (one) DO UPDATE SET heard_at = now(),
    resumed_at = CASE WHEN w.heard_at < now() - make_interval(secs => %s) THEN now() ELSE w.resumed_at END
"""
# A silent process may hold messages until they are visible again; only what was seen after that counts. An empty poll
# counts once all other processes have reported after it; a calm load counts if it is calm for all.
_LOOK: Final = b"""
WITH known AS (
    SELECT *, reported_at > now() - make_interval(secs => %(fresh)s) AS live FROM receivers
), bounds AS (
    SELECT coalesce(max(CASE WHEN live THEN blocked_until
            ELSE greatest(blocked_until, reported_at + make_interval(secs => %(hidden)s)) END), '-infinity') AS clear,
        min(reported_at) FILTER (WHERE live) - make_interval(secs => %(settled)s) AS agreed,
        min(oldest) FILTER (WHERE live) AS oldest
    FROM known
), raised AS (
    SELECT greatest(
        (SELECT max(empty_from) FROM known WHERE live AND empty_from >= clear AND empty_from <= agreed),
        (SELECT CASE WHEN bool_and(received_at IS NOT NULL AND calm IS NOT NULL
                AND received_at - make_interval(secs => %(times)s * calm) >= clear)
            THEN min(received_at - make_interval(secs => calm)) END FROM known WHERE live)
    ) AS watermark, oldest FROM bounds
)
SELECT extract(epoch FROM now() - least(watermark, CASE WHEN watermark IS NOT NULL THEN oldest END))::float,
    (SELECT extract(epoch FROM now() - resumed_at)::float FROM watches),
    (SELECT coalesce(json_object_agg(service, json_build_array(
        extract(epoch FROM now() - asked_at), extract(epoch FROM now() - answered_at))), '{}') FROM frontiers)
FROM raised
"""
_GIVEN_BACK: Final = """
INSERT INTO given_back AS g (order_id, until)
SELECT o, now() + make_interval(secs => s) FROM unnest(%s::uuid[], %s::float[]) AS x(o, s) ORDER BY o
ON CONFLICT (order_id) DO UPDATE SET until = greatest(g.until, excluded.until)
"""
_LEAVE: Final = b"DELETE FROM receivers WHERE id = %s"


@dataclass(frozen=True, slots=True)
class Look:
    """`lag`: seconds that the service's watermark is behind the database's clock; infinite while it is unknown.
    `resumed`: seconds since its owner resumed after it had been down, or could not hear its queue."""

    lag: float
    resumed: float


class Receivers:
    """This process's part among all that receive from the service's queue."""

    def __init__(self, database: Database, watermark: Watermark, answers: Answers, settings: Settings) -> None:
        self._database = database
        self._watermark = watermark
        self._answers = answers
        self._hidden = settings.visibility + settings.long_poll
        self._down_after = max(settings.resend_after[0], _DEAF)
        self._id = clock.new_id()
        self._epoch: float | None = None
        """The database's clock minus this process's monotonic clock, or slightly less."""

    def report(self, leaving: bool = False) -> None:
        """Reports what this process has seen; `leaving`: for the last time. Raises DatabaseUnavailable."""
        if self._epoch is None:
            [(now,)] = self._database.query("SELECT extract(epoch FROM clock_timestamp())::float")
            self._epoch = now - self._watermark.now()
        epoch, seen = self._epoch, self._watermark.seen()
        blocked = seen.blocked_until > self._watermark.now()
        moments = {"empty_from": seen.empty_from, "received_at": seen.received_at, "oldest": seen.oldest}
        parameters = {name: None if at is None else at + epoch for name, at in moments.items()} | {
            "id": self._id,
            "calm": seen.calm,
            "blocked_until": None if seen.blocked_until == -inf else seen.blocked_until + epoch + _MARGIN,
        }
        fresh = self._answers.fresh()
        with self._database.transaction() as connection:
            told = connection.execute(_REPORT, parameters)
            if fresh:
                connection.execute(_ANSWERED, [list(column) for column in zip(*fresh, strict=True)])
            if leaving and seen.oldest is None and not blocked:
                connection.execute(_LEAVE, [self._id])
            [(now,)] = told.fetchall()
            self._epoch = now - self._watermark.now()

    def look(self) -> Look:
        """The service's watermark. Raises DatabaseUnavailable."""
        asked = time.monotonic()
        with self._database.transaction() as connection:
            if self._watermark.hearing:
                connection.execute(_HEARD, [self._down_after])
            numbers = {"fresh": _FRESH, "hidden": self._hidden, "settled": SETTLED - 1, "times": CALM}
            [(lag, resumed, frontiers)] = connection.execute(_LOOK, numbers).fetchall()
        self._answers.learn(frontiers)
        took = time.monotonic() - asked
        return Look(inf if lag is None else max(0.0, lag) + took + _MARGIN, inf if resumed is None else resumed)

    def give_back(self, until: Mapping[str, float]) -> None:
        """Records orders with a hidden message, by the seconds that it stays hidden. Raises DatabaseUnavailable."""
        self._database.query(_GIVEN_BACK, [list(until), list(until.values())])
