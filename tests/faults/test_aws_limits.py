"""FAULTS row 34 in every workflow: credentials expire, a database fails over, token buckets are empty. No message is
lost or dead-lettered, and everything recovers by itself. AWS also shows the behaviours that it documents
(`tests.support.aws_like`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from orderflow.contracts import EventBus, Workflow
from orderflow.errors import DatabaseUnavailable
from tests.support.aws_like.rules import BUCKETS, USUAL, Behaviour, Rules
from tests.support.load import each_kind
from tests.support.oracle import check
from tests.support.postgres import Server
from tests.support.system import until
from tests.support.world import BUILD, World, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.row(34)]

Kind = tuple[Workflow, EventBus]


def place(world: World, kind: Kind, number: int = 4) -> list[str]:
    return [world.place(workflow=kind[0], event_bus=kind[1]) for _ in range(number)]


def work(world: World, turns: int = 1) -> None:
    """All processes work as far as they can."""
    for _ in range(turns):
        for name in BUILD:
            world.publish(name)
            world.deliver(name)


def all_confirmed(world: World, orders: list[str]) -> None:
    world.recover()
    assert {world.status(order_id) for order_id in orders} == {"CONFIRMED"}
    check(world.urls, acknowledged=orders)
    assert world.parked() == []


@pytest.mark.parametrize("kind", each_kind())
@pytest.mark.parametrize("turns", [0, 2])
def test_credentials_expire(world: World, kind: Kind, turns: int, seed: int, measured: Callable[..., None]) -> None:
    """Credentials expire with orders at every stage; orders are accepted meanwhile, too. The credentials are renewed,
    and every order is confirmed."""
    world.rules.reseed(seed)
    orders = place(world, kind)
    work(world, turns)
    refused = world.rules.fired[Behaviour.EXPIRED]
    world.rules.expire()
    for _ in range(3):
        orders += place(world, kind, 1)
        work(world)
        for name in ("order", "orchestrator"):
            world.sweep(name)
    world.rules.renew()
    refused = world.rules.fired[Behaviour.EXPIRED] - refused
    measured(orders=len(orders), refused=refused)
    assert refused > 0
    all_confirmed(world, orders)


@pytest.mark.parametrize("kind", each_kind())
@pytest.mark.parametrize("service", list(BUILD))
def test_a_database_fails_over(
    world: World, postgres: Server, kind: Kind, service: str, measured: Callable[..., None]
) -> None:
    """The database's sessions end. Connections first reach a standby that accepts no writes, and then, under the same
    name, another server with everything that was committed. No process is restarted."""
    orders = place(world, kind)
    work(world)
    world.leave(service)
    with postgres.failing_over(world.urls[service]) as promote:
        refused = 0
        for name in BUILD:
            try:
                world.publish(name)
                world.deliver(name)
                world.services[name].database.query("DELETE FROM outbox WHERE false")
            except DatabaseUnavailable:
                refused += 1
        assert refused == 1, "of the one that fails over"
        promote()
    began = time.monotonic()
    until(world.services[service].database.alive, 30)
    measured(orders=len(orders), back_s=time.monotonic() - began)
    all_confirmed(world, orders)


@pytest.fixture(scope="module")
def small_quotas(new_database: Callable[[str | None], str]) -> Iterator[World]:
    """Each action has one in four hundred of AWS's tokens: two at first, and one every two or three seconds."""
    with world_on(new_database, Rules(1, USUAL, scale=1 / 400)) as made:
        yield made


@pytest.mark.parametrize(
    "bus", [pytest.param(bus, marks=pytest.mark.full if i else ()) for i, bus in enumerate(EventBus)]
)
def test_token_buckets_are_empty(small_quotas: World, bus: EventBus, measured: Callable[..., None]) -> None:
    """The buckets of a state machine's starts, answers and reads are empty; orders of other workflows don't wait."""
    world, machine = small_quotas, (Workflow.STEP_FUNCTIONS, bus)
    own = place(world, machine, 12)
    others = [order_id for kind in Workflow if kind is not machine[0] for order_id in place(world, (kind, bus), 2)]
    world.settle()
    assert {world.status(order_id) for order_id in others} == {"CONFIRMED"}
    all_confirmed(world, own + others)
    throttled = world.rules.fired[Behaviour.BUCKET]
    measured(orders=len(own), throttled=throttled, **{name: world.rules.calls[name] for name in BUCKETS})
    assert throttled > 0
