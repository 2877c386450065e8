"""What the tests of the two services that call a provider share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from orderflow import clock
from tests.support.provider_process import PAYMENT, SHIPPING, Process, World


@pytest.fixture(scope="module", params=[PAYMENT, SHIPPING], ids=lambda kind: kind.service)
def databases(request: pytest.FixtureRequest, new_database: Callable[[str | None], str]) -> Iterator[World]:
    found = World(request.param, new_database(request.param.service), new_database(None))
    yield found
    found.close()


@pytest.fixture
def world(databases: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Payment's world, then shipping's, where nothing waits yet; the processes in it end with the test. What waits is
    not due by chance before a test says so."""
    monkeypatch.setattr("orderflow.providers.calls.backoff", lambda tries: 60.0)
    databases.sql(f"DELETE FROM {databases.kind.table}_waiting")
    yield databases
    databases.stop_processes()


@pytest.fixture
def process(world: World) -> Process:
    """One process of the service."""
    return world.process()


@pytest.fixture
def order_id() -> str:
    """A new order."""
    return clock.new_id()
