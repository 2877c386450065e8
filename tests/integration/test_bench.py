"""The bench on the real system, too short to measure anything: it works, and its counts are right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.bare.side import STACK, BareLoop
from lab.bench.experiments import Bench
from lab.bench.plan import Effort
from lab.load.side import Orderflow
from lab.workload import variants
from orderflow.routing import SERVICES
from tests.support.aws import client
from tests.support.system import System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Measured:
    """The tests' system as the lab sees it."""

    def __init__(self, system: System, folder: Path) -> None:
        self._system = system
        self.folder = folder

    def url(self, part: str) -> str:
        return self._system.url(part)

    def database(self, name: str) -> str:
        return self._system.databases[name]

    def pids(self) -> dict[str, int]:
        return {name: self._system.runtime.pid(name) for name in ("localstack", "postgres", *SERVICES)}


@pytest.fixture
def bench(system: System, tmp_path: Path) -> Iterator[Bench]:
    system.clean()
    measured = Measured(system, tmp_path)
    with ExitStack() as ends:
        orderflow = Orderflow(measured, clients=2, restock=False)  # the oracle counts the stock
        ends.callback(orderflow.close)
        bare = BareLoop(measured, long_poll=1)
        ends.callback(_delete_stack, system)
        ends.callback(bare.close)
        effort = Effort(rounds=1, seconds=1.0, orders=3, in_flight=4)
        yield Bench(orderflow, bare, effort, 1, lambda: {**bare.pids(), **orderflow.pids()})


def _delete_stack(system: System) -> None:
    client("cloudformation", system.url("localstack")).delete_stack(StackName=STACK)


def test_both_sides_do_the_same_work(bench: Bench, system: System) -> None:
    """One order at a time, both sides make the same number of AWS calls and deliver the same messages; and the measured
    system is consistent afterwards."""
    said: list[str] = []
    bench.compare(variants("choreography", "sns"), lambda done, total, doing: said.append(doing))
    [experiment] = bench.experiments
    assert experiment.problems == []
    [pair] = experiment.pairs
    bare, orderflow = pair.sides["bare"], pair.sides["orderflow"]
    for side in (bare, orderflow):
        assert side.completed > 0
        assert len(side.latencies) >= 3
        assert (side.unfinished, side.refused, side.errors) == (0, 0, [])
        assert all(ms > 0 for ms in side.latencies)
    # 5 publishes, 6 deliveries, each received and deleted alone; an idle long poll may end in between.
    assert bare.calls_single == pytest.approx(17, abs=4)
    # The same, but several orders share calls to delete messages.
    assert orderflow.calls_single is not None
    assert 11 <= orderflow.calls_single <= 21
    assert set(orderflow.cpu) == {"localstack", "postgres", *SERVICES, "generator"}
    assert {name for name, ms in bare.cpu.items() if ms > 0} >= {"localstack", "bare-order"}
    assert len(orderflow.answers) >= 1
    assert said[-1] == "done"
    system.check()
    system.no_dead_letters()
