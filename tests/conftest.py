"""Fixtures for all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import environment  # noqa: F401 # isort: skip  (before anything reads what it clears)
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orderflow import failpoints, telemetry
from orderflow.contracts import Workflow
from tests.faults.matrix import workflows_of
from tests.support import aims
from tests.support import postgres as support

# A line for each message handled, drawn for a console, would take longer than the tests.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `make faults` is asked for, and pytest understands too."""
    group = parser.getgroup("fault matrix")
    group.addoption("--row", action="append", type=int, help="only tests of this row of the fault matrix; repeatable")
    group.addoption("--workflow", type=Workflow, help="of the fault tests for single workflows only those of this one")
    group.addoption("--seed", type=int, help="of all chances in fault tests")
    group.addoption("--slack", type=float, metavar="N", help="what has an aim in seconds may take N times as long")


def pytest_configure(config: pytest.Config) -> None:
    """Aims are those of a quiet machine; beside other test processes there is none."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    given: float | None = config.getoption("--slack")
    aims.set_slack(given if given is not None else 1.0 if alone else aims.BESIDE_OTHERS)


def parameters_of(item: pytest.Item) -> dict[str, Any]:
    """Of a test that is one of several with the same function; else none."""
    return dict(item.callspec.params) if hasattr(item, "callspec") else {}


HARMED = "faults-system"
"""The group of the tests that harm one real system: what it does then takes real time, on a machine that is theirs."""

_FIRST = ("system", "runtime", "tests/integration/test_readme.py")
"""Groups that take longest; begun first, one a test process, so that none is left for the end."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those that were asked for, in groups: tests that share a running system, or else a module, stay together in one
    test process (`--dist loadgroup`)."""
    rows, workflow = config.getoption("row"), config.getoption("workflow")

    def wanted(item: pytest.Item) -> bool:
        named = workflows_of(parameters_of(item).values())
        marked = {number for mark in item.iter_markers("row") for number in mark.args}
        return (not rows or bool(marked & set(rows))) and (not workflow or not named or workflow in named)

    for item in items:
        if any(mark.args[0] == HARMED for mark in item.iter_markers("xdist_group")):
            item.add_marker(pytest.mark.real_time)
    if unwanted := [item for item in items if not wanted(item)]:
        items[:] = [item for item in items if wanted(item)]
        config.hook.pytest_deselected(items=unwanted)

    def group(item: pytest.Item) -> str:
        marker = item.get_closest_marker("xdist_group")
        if marker:
            return str(marker.args[0])
        name = "system" if "system" in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]
        if "world" in getattr(item, "fixturenames", ()) and "kind" in (parameters := parameters_of(item)):
            name += f"-{parameters['kind'][1]}"  # by event bus: each half has a world of its own
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
    with postgres.databases() as make:
        yield make


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
