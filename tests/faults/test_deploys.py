"""FAULTS row 23: a rolling deploy of a release whose messages have one more field or a newer version; producers are
deployed before their consumers, and the reverse."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import orderflow
from orderflow.contracts import EventBus, Message, Workflow
from orderflow.envelope import Envelope
from tests.support.load import Load, each_kind
from tests.support.oracle import check
from tests.support.processes import apply
from tests.support.system import System
from tests.support.world import BUILD, World, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.row(23)]

DOWNSTREAM = ("order", "orchestrator", "inventory", "payment", "shipping")
SEQUENCES = {"producers-first": DOWNSTREAM, "consumers-first": DOWNSTREAM[::-1]}

sequences = pytest.mark.parametrize("sequence", SEQUENCES)
changes = pytest.mark.parametrize("newer_version", [False, True], ids=["one-more-field", "newer-version"])


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


_ENCODE = Envelope.encode


class Deploy:
    """The services of a world, some of which run a newer release: their messages have one more field, in the envelope
    and in its data, and with `newer_version` have a version that the older services don't know."""

    def __init__(self, patch: pytest.MonkeyPatch, *, newer_version: bool) -> None:
        self.newer: set[str] = set()
        self.with_more = 0
        self._patch = patch
        self._version = 2 if newer_version else 1

    @contextmanager
    def process(self, name: str) -> Iterator[None]:
        """The code within the context runs in this service's process."""
        with self._patch.context() as patch:
            if name in self.newer:
                patch.setattr(Message, "version", self._version)
                patch.setattr(Envelope, "encode", lambda envelope: self._encode(envelope))
            yield

    def _encode(self, envelope: Envelope) -> str:
        body = _ENCODE(envelope)
        if envelope.sender not in self.newer:
            return body  # the state machine's
        self.with_more += 1
        return json.dumps(json.loads(body) | {"priority": 7, "data": envelope.data | {"gift": True}})


@sequences
@changes
@pytest.mark.parametrize("kind", each_kind())
def test_older_and_newer_work_together(
    world: World,
    kind: tuple[Workflow, EventBus],
    newer_version: bool,
    sequence: str,
    monkeypatch: pytest.MonkeyPatch,
    measured: Callable[..., None],
) -> None:
    """One service after the other is upgraded, with orders at every step. An additional field is ignored; a newer
    version waits for its consumer; every order is confirmed without a resend."""
    deploy = Deploy(monkeypatch, newer_version=newer_version)
    orders: list[str] = []
    waited = 0

    def work(rounds: int) -> None:
        nonlocal waited
        for _ in range(rounds):
            for name in BUILD:
                with deploy.process(name):
                    world.publish(name)
                    world.deliver(name)
                waited += len(world.broker.queues[name].in_flight)
                world.broker.queues[name].redeliver()

    for service in (None, *SEQUENCES[sequence]):
        deploy.newer |= {service} - {None}
        with deploy.process("order"):
            orders.append(world.place(workflow=kind[0], event_bus=kind[1]))
        work(rounds=4)
    work(rounds=20)
    measured(orders=len(orders), with_one_more_field=deploy.with_more, waited=waited)
    assert {world.status(order_id) for order_id in orders} == {"CONFIRMED"}
    check(world.urls, acknowledged=orders, drained=False)
    assert world.parked() == []
    assert deploy.with_more
    # A state machine is not an older consumer: it reads fields by name, and its commands are its own.
    meets_older = newer_version and kind[0] is not Workflow.STEP_FUNCTIONS
    assert bool(waited) == meets_older, "older consumers met a version that they don't know"
    sends = world.execute("order", "SELECT sum(sends) FROM orders WHERE id = ANY(%s::uuid[])", [orders])
    assert sends == [(0,)]


def newer(folder: Path, *, newer_version: bool) -> dict[str, str]:
    """Makes a copy of the kernel whose messages have one more field, and returns the environment of a process that runs
    it. The file `ran` in the folder records each message."""
    older_kernel = Path(orderflow.__file__).parent
    shutil.copytree(older_kernel, folder / "orderflow")
    contracts = folder / "orderflow" / "contracts.py"
    older = "    version: ClassVar[int] = 1\n"
    text = contracts.read_text()
    assert text.count(older) == 1
    text = text.replace(older, f"    version: ClassVar[int] = {2 if newer_version else 1}\n    gift: bool = True\n")
    ran = f"open({str(folder / 'ran')!r}, 'a').write('x')"
    contracts.write_text(f"{text}\n{ran}\n")
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(older_kernel.parent))), "PYTHONSAFEPATH": "1"}


@pytest.mark.full
@pytest.mark.xdist_group("faults-system")
@sequences
@changes
def test_rolling_deploy(
    system: System,
    seed: int,
    kinds: tuple[tuple[Workflow, EventBus], ...],
    newer_version: bool,
    sequence: str,
    tmp_path: Path,
    measured: Callable[..., None],
) -> None:
    """A rolling deploy of real processes under load, one service at a time, as `up` does it: every order ends
    correctly, and nothing is dead-lettered."""
    environment = newer(tmp_path, newer_version=newer_version)
    overrides: dict[str, dict[str, str]] = {}
    before = len(told(system))
    with Load(system, kinds, rate=4, total=1000, seed=seed) as load:
        for number, service in enumerate(SEQUENCES[sequence], 1):
            load.until_taken(16 * number)
            overrides[service] = environment
            apply(system, overrides=overrides)
        load.until_taken(160)
        assert not load.done, "the load lasted for as long as the deploy"
        taken = load.end()
    waited = len(told(system)) - before
    system.until_terminal(*taken, seconds=120)
    late = system.sql("order", "SELECT count(DISTINCT order_id) FROM order_log WHERE note = 'deadline'")[0][0]
    measured(orders=len(taken), waited=waited, late=late)
    system.check(acknowledged=taken)
    system.no_dead_letters()
    assert len((tmp_path / "ran").read_text()) >= len(DOWNSTREAM), "the newer code ran"
    # A state machine is not an older consumer, and receives no OrderPlaced that isn't resent (see above).
    assert waited or not newer_version or {workflow for workflow, _ in kinds} == {Workflow.STEP_FUNCTIONS}
    assert newer_version or not waited


def told(system: System) -> list[object]:
    """Messages that waited for a newer consumer, by the logs."""
    return [line for service in DOWNSTREAM for line in system.logged(service, "is newer than this process")]
