"""One real system for faults of processes, with times short enough for tests."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import pytest

from tests.faults.matrix import ROUTED, SEEDS
from tests.support.aws_like.rules import Rules
from tests.support.load import mixes
from tests.support.system import FAULTS, KINDS, System, running
from tests.support.world import World, world_on


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`seed`: seeds everything random in a test; the full run of a row that depends on routing uses five. `kinds`:
    every workflow and bus in one run, and in the full run also each in its own run."""
    named = ",".join(str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize")).split(",")
    wanted = set(metafunc.fixturenames) - {name.strip() for name in named}
    if "seed" in wanted:
        rows = {number for mark in metafunc.definition.iter_markers("row") for number in mark.args}
        given = metafunc.config.getoption("seed")
        seeds = [given] if given is not None else SEEDS if rows & ROUTED else SEEDS[:1]
        more = [pytest.param(n, marks=pytest.mark.full) for n in seeds[1:]]
        metafunc.parametrize("seed", [seeds[0], *more], ids=lambda n: f"seed{n}")
    if "kinds" in wanted:
        metafunc.parametrize("kinds", mixes(metafunc.config.getoption("workflow")))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `full` or `extra` run only if `-m` names the mark. Further seeds run with all workflows at once."""
    expression = config.option.markexpr or ""

    def runs(item: pytest.Item) -> bool:
        if any(mark not in expression and item.get_closest_marker(mark) for mark in ("full", "extra")):
            return False
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        one_kind = len(parameters.get("kinds", KINDS)) == 1
        return not one_kind or parameters.get("seed", SEEDS[0]) == SEEDS[0] or config.getoption("seed") is not None

    if dropped := [item for item in items if not runs(item)]:
        items[:] = [item for item in items if runs(item)]
        config.hook.pytest_deselected(items=dropped)


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    """All services in one process, on an AWS that leaves something to chance. A module may have another one."""
    with world_on(new_database, Rules(1)) as made:
        yield made


@pytest.fixture(autouse=True)
def _chances_of_its_own(request: pytest.FixtureRequest) -> None:
    """Seeds AWS's random behaviour per test, so that it doesn't depend on the tests that ran before; it changes with
    --seed."""
    if "world" in request.fixturenames and isinstance(world := request.getfixturevalue("world"), World):
        name = request.node.nodeid.partition("@")[0]
        world.rules.reseed(zlib.crc32(f"{name} {request.config.getoption('seed')}".encode()))


@pytest.fixture(scope="session")
def _system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("faults"), FAULTS) as made:
        yield made


@pytest.fixture
def system(_system: System) -> System:
    """The running system, complete, and without anything that an earlier test may have left."""
    _system.runtime.up()
    _system.until_ready()
    _system.clean()
    return _system
