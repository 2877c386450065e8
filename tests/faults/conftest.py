"""One real system for the faults that are done to processes, with times short enough for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.system import FAULTS, System, running


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Full sizes run only when asked for: `-m full`."""
    if "full" in (config.option.markexpr or ""):
        return
    full = [item for item in items if item.get_closest_marker("full")]
    if full:
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=full)


@pytest.fixture(scope="session")
def _system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("faults"), FAULTS) as made:
        yield made


@pytest.fixture
def system(_system: System) -> System:
    """The running system, whole, and without what an earlier test may have left."""
    _system.runtime.up()
    _system.until_ready()
    _system.clean()
    return _system


@pytest.fixture
def seed() -> int:
    """Of all chances in a test: ORDERFLOW_TEST_SEED, by default always the same. Printed when a test fails."""
    value = int(os.environ.get("ORDERFLOW_TEST_SEED", "1"))
    print(f"repeat with ORDERFLOW_TEST_SEED={value}")
    return value
