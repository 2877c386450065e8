"""Fixtures of the tests that need PostgreSQL, and a broker in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from orchestrator.guardian import Guardian
from orderflow.database import Database
from orderflow.messaging import consumer
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.publisher import Publisher
from tests.support.guardians import Machine, guarding
from tests.support.lanes import Faulty
from tests.support.publishing import Parts, Picky, Stored
from tests.support.threads import in_background
from tests.support.world import World, failing_on_purpose, world_on


@pytest.fixture(scope="module")
def _world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    """The whole system in this process, without dead letters; one for all tests of a module."""
    with failing_on_purpose(_world) as made:
        yield made


@pytest.fixture
def nothing_failed_yet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is given back stays away until it is redelivered; a delay may be none."""
    for name in world.services:
        world.execute(name, "DELETE FROM failures")
    monkeypatch.setattr(consumer, "_delay", lambda receive_count, soon=False: 1)


@pytest.fixture
def guardian(world: World) -> tuple[Guardian, Machine]:
    """One that looks when the test says so, and what it asks."""
    machine = Machine()
    return guarding(world, machine), machine


@pytest.fixture
def stored(new_database: Callable[[str | None], str]) -> Iterator[Stored]:
    """An outbox's database, and its URL."""
    url = new_database("inventory")
    made = Database(url, size=4)
    made.open()
    yield made, url
    made.close()


@pytest.fixture
def parts(stored: Stored) -> Parts:
    """A publisher with what is before and behind it."""
    outbox = Outbox(stored[0], lease=60)
    broker = Picky()
    return outbox, broker, Publisher(outbox, broker)


@pytest.fixture(scope="module")
def database(new_database: Callable[[str | None], str]) -> Iterator[Database]:
    """The outbox that lanes send from; one for all tests of a module."""
    made = Database(new_database("inventory"), size=4)
    made.open()
    yield made
    made.close()


@pytest.fixture
def broker() -> Faulty:
    """One that takes everything, until a test says otherwise."""
    return Faulty()


@pytest.fixture
def outbox(database: Database) -> Outbox:
    """Nothing waits in it yet."""
    database.query("DELETE FROM outbox")
    return Outbox(database, lease=60)


@pytest.fixture
def publisher(outbox: Outbox, broker: Faulty) -> Publisher:
    """Sends when the test says so."""
    return Publisher(outbox, broker)


@pytest.fixture
def running(publisher: Publisher) -> Iterator[Publisher]:
    """With a thread for each lane."""
    ended = in_background(publisher.run)
    yield publisher
    publisher.stop()
    ended.result(20)
