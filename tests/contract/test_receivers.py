"""The watermark of a service is that of all its processes together, in its database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import psycopg
import pytest

from orderflow import clock
from orderflow.broker import Delivery
from orderflow.database import Database
from orderflow.messaging.receivers import Receivers
from orderflow.messaging.watermark import AGES, CALM, Watermark
from orderflow.saga.answers import Answers
from orderflow.settings import Settings

pytestmark = pytest.mark.row(25)

SETTINGS = Settings(aws_endpoint_url="http://memory", visibility=30, long_poll=20, resend_after=(10, 20, 40))
HIDDEN = 50
"""Seconds after its last word until what a process that died may have held is visible: a long poll, and its timeout."""


@dataclass
class Base:
    """A database, and what stands in it."""

    database: Database
    sql: psycopg.Connection[Any]
    moved: float = 0.0

    def process(
        self,
        *,
        reported: float = 0,
        empty: float | None = None,
        received: float | None = None,
        calm: float | None = None,
        oldest: float | None = None,
        blocked: float | None = None,
    ) -> None:
        """One that last reported so many seconds ago, what it saw in seconds before now; `blocked` from now on."""
        self.sql.execute(
            "INSERT INTO receivers (id, reported_at, empty_from, received_at, calm, oldest, blocked_until) VALUES (%s,"
            " now() - make_interval(secs => %s), now() - make_interval(secs => %s), now() - make_interval(secs => %s),"
            " %s, now() - make_interval(secs => %s), now() + make_interval(secs => %s))",
            [clock.new_id(), reported, empty, received, calm, oldest, blocked],
        )

    def real(self) -> tuple[Watermark, Receivers]:
        """A process at work."""
        watermark = Watermark(long_poll=20, visibility=30)
        return watermark, Receivers(self.database, watermark, Answers(10), SETTINGS)

    @property
    def lag(self) -> float:
        return self.real()[1].look().lag


@pytest.fixture(scope="module")
def databases(new_database: Callable[[str | None], str]) -> Iterator[Base]:
    url = new_database("order")
    database = Database(url, size=2)
    database.open()
    with psycopg.connect(url, autocommit=True) as connection:
        yield Base(database, connection)
    database.close()


@pytest.fixture
def base(databases: Base) -> Base:
    databases.sql.execute("TRUNCATE receivers, watches, given_back, frontiers")
    return databases


def about(seconds: float) -> Any:
    """A look leans to the later, and this machine may be slow."""
    return pytest.approx(seconds + 5, abs=5)


def test_nobody_knows_anything(base: Base) -> None:
    assert base.lag == inf
    base.process()
    assert base.lag == inf


def test_one_empty_poll_speaks_for_all_that_do_not_object(base: Base) -> None:
    base.process(empty=40)
    base.process()
    assert base.lag == about(40)
    base.process(oldest=100)
    assert base.lag == about(100), "that one has an older message in flight"


def test_another_must_have_reported_since(base: Base) -> None:
    """What it was given before that poll began it may not have told yet."""
    base.process(empty=1)
    base.process()
    assert base.lag == inf


def test_one_that_was_killed_counts_until_what_it_held_is_visible(base: Base) -> None:
    base.process(empty=4)
    base.process(reported=HIDDEN - 10)
    assert base.lag == inf, "it may hold messages"
    base.sql.execute("DELETE FROM receivers")
    base.process(empty=20)
    base.process(reported=HIDDEN + 5, oldest=400)
    assert base.lag == inf, "they are visible since 5 s ago; the poll was before that"
    base.sql.execute("DELETE FROM receivers")
    base.process(empty=20)
    base.process(reported=HIDDEN + 60, oldest=400)
    assert base.lag == about(20)


def test_what_is_invisible_without_being_known_blocks(base: Base) -> None:
    base.process(empty=20)
    base.process(blocked=15)
    assert base.lag == inf


def test_a_calm_load_must_be_calm_for_all(base: Base) -> None:
    base.process(received=1, calm=8)
    base.process(received=3, calm=2)
    assert base.lag == about(9)
    base.process(received=1)
    assert base.lag == inf, "that one sees older ones"


def test_a_load_is_calm_again_only_when_what_became_visible_had_time_to_come(base: Base) -> None:
    base.process(received=1, calm=8)
    base.process(reported=HIDDEN + 20)
    assert base.lag == inf
    base.process(reported=HIDDEN + 20, oldest=1)
    base.sql.execute("UPDATE receivers SET reported_at = reported_at - interval '100 s' WHERE received_at IS NULL")
    assert base.lag == about(9)


def test_a_process_tells_what_it_saw(base: Base) -> None:
    """Its moments are by its own clock; the database's is another."""
    watermark, receivers = base.real()
    now = watermark.now()
    held = [Delivery("{}", "receipt", age=120)]
    watermark.received([], now - 30, wait=20)
    watermark.received(held, now, wait=20)
    receivers.report()
    assert receivers.look().lag == about(120)
    watermark.settled(held)
    receivers.report()
    assert receivers.look().lag == about(30)
    watermark.failed()
    receivers.report()
    assert receivers.look().lag == inf


def test_who_leaves_with_nothing_in_flight_leaves_nothing(base: Base) -> None:
    rows = "SELECT count(*) FROM receivers"
    watermark, receivers = base.real()
    held = [Delivery("{}", "receipt", age=1)]
    watermark.received(held, watermark.now(), wait=20)
    receivers.report()
    receivers.report(leaving=True)
    assert base.sql.execute(rows).fetchone() == (1,), "it becomes visible when its timeout is over"
    watermark.settled(held)
    receivers.report(leaving=True)
    assert base.sql.execute(rows).fetchone() == (0,)


def test_an_owner_that_was_down_or_deaf_has_resumed(base: Base) -> None:
    watermark, receivers = base.real()
    assert receivers.look().resumed == inf, "it never heard"
    watermark.received([], watermark.now(), wait=1)
    assert receivers.look().resumed < 5, "for the first time"
    age = "UPDATE watches SET heard_at = heard_at - make_interval(secs => %s), resumed_at = resumed_at - interval '1 h'"
    base.sql.execute(age, [3])
    assert receivers.look().resumed > 3000
    base.sql.execute(age, [60])
    assert receivers.look().resumed < 5
    base.sql.execute(age, [60])
    watermark.failed()
    assert receivers.look().resumed > 3000, "it does not hear yet"


def test_what_is_given_back_is_noted_by_its_order(base: Base) -> None:
    order_id = clock.new_id()
    _, receivers = base.real()
    for seconds in (900, 30):
        receivers.give_back({order_id: seconds})
    [(found, until)] = base.sql.execute(
        "SELECT order_id::text, extract(epoch FROM until - now())::float FROM given_back"
    ).fetchall()
    assert found == order_id
    assert until == pytest.approx(900, abs=30), "the later of two messages"


def test_processes_learn_what_others_have_been_answered(base: Base) -> None:
    here, there = Answers(10), Answers(10)
    Receivers(base.database, Watermark(long_poll=20, visibility=30), here, SETTINGS).report()
    here.heard("inventory", 5.0)
    Receivers(base.database, Watermark(long_poll=20, visibility=30), here, SETTINGS).report()
    assert there.least_wait(["inventory"], 60) == 0
    Receivers(base.database, Watermark(long_poll=20, visibility=30), there, SETTINGS).look()
    assert there.least_wait(["inventory"], 60) == pytest.approx(15, abs=5)


def test_a_load_is_calm_for_ten_times_its_age() -> None:
    """The bound that the statement and the process go by is one."""
    assert AGES[0] * CALM == 20
