"""Fixtures for all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

import pytest
import structlog

from orderflow import failpoints
from tests.support import postgres as support

# A line for each message handled, drawn for a console, would take longer than the tests.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


_FIRST = ("faults-system", "system", "step-functions", "runtime")
"""Groups that take longest; begun first, one a test process, so that none is left for the end."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a running system, or else a module, stay together in one test process (`--dist loadgroup`)."""

    def group(item: pytest.Item) -> str:
        marker = item.get_closest_marker("xdist_group")
        if marker:
            return str(marker.args[0])
        name = "system" if "system" in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(name))
        return name

    order = {item: group(item) for item in items}
    items.sort(key=lambda item: _FIRST.index(order[item]) if order[item] in _FIRST else len(_FIRST))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[support.Server]:
    """A real PostgreSQL, shared by all workers of this run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "postgres"
    folder.mkdir(exist_ok=True)
    with support.server(folder) as server:
        yield server


@pytest.fixture(scope="module")
def new_database(postgres: support.Server) -> Iterator[Callable[[str | None], str]]:
    """Gives URLs of fresh databases, with a service's schema or empty; they are dropped after the module."""
    made: list[str] = []

    def make(service: str | None = None) -> str:
        made.append(postgres.database(service))
        return made[-1]

    yield make
    for url in made:
        postgres.drop(url)


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Notes what a fault test measured, in `make faults`' table: `measured(kills=18, drained_s=12.5)`."""

    def note(**values: object) -> None:
        for name, value in values.items():
            record_property(name, value)
            print(f"measured {name}: {value}")  # seen when the test fails

    return note


@pytest.fixture(autouse=True)
def _no_failpoint_stays_armed() -> Iterator[None]:
    yield
    failpoints.disarm()
