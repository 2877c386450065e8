"""Fixtures of the tests that need PostgreSQL, and a broker in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

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
