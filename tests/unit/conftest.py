"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orderflow import telemetry
from tests.support.world import World, failing_on_purpose, world_on


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Every span that this process makes, in memory."""
    found = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(found))
    telemetry.use(provider, stack="orderflow")
    yield found
    telemetry.use(None)
    provider.shutdown()


@pytest.fixture(scope="module")
def _world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    """The whole system in this process, without dead letters; one for all tests of a module."""
    with failing_on_purpose(_world) as made:
        yield made
