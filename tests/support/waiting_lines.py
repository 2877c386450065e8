"""What waits in line for an order's owner, or with another process of it, and how the owner looks after its orders."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from orderflow import clock
from orderflow.broker import Delivery
from orderflow.contracts import EventBus, Workflow
from orderflow.routing import COORDINATOR, MACHINE
from tests.support.world import World, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.row(25)]


Kind = tuple[Workflow, EventBus]


VISIBILITY, LONG_POLL, UNDO_AFTER = 30, 20, 60.0
"""Seconds, as by default."""


OWNED = [(Workflow.CHOREOGRAPHY, EventBus.SNS), (Workflow.ORCHESTRATION, EventBus.SNS)]


every_owner = pytest.mark.parametrize("kind", OWNED, ids=["order", "orchestrator"])


def owner_of(kind: Kind) -> str:
    coordinator = COORDINATOR[kind[0]]
    return "order" if coordinator == MACHINE else coordinator


@pytest.fixture
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


def place(world: World, kind: Kind, number: int) -> list[str]:
    return [world.place(workflow=kind[0], event_bus=kind[1]) for _ in range(number)]


def statuses(world: World, orders: Sequence[str]) -> Counter[str]:
    return Counter(world.status(order_id) for order_id in orders)


def work(world: World, *but: str) -> None:
    """All services work through their queues, but these."""
    others = [name for name in world.services if name not in but]
    while True:
        for name in world.services:
            world.publish(name)
        if not sum(world.deliver(name) for name in others):
            return


def look(world: World, owner: str) -> float:
    """The owner reports and looks after what is due, as each second; how far behind its watermark was."""
    service = world.services[owner]
    assert service.receivers
    service.outbox.flush()
    service.receivers.report()
    seen = service.receivers.look()
    service.sweeper.sweep(seen.lag, seen.resumed)  # type: ignore[union-attr]
    return seen.lag


def publish(world: World) -> None:
    """The order service sends what it has staged, and notes that."""
    world.publish("order")
    world.services["order"].outbox.flush()


def waited(world: World, owner: str) -> float:
    """Seconds that the open order has waited that has waited longest."""
    where = {"order": "orders WHERE open", "orchestrator": "sagas WHERE active"}[owner]
    ages = world.execute(owner, f"SELECT coalesce(max(extract(epoch FROM now() - progress_at)), 0)::float FROM {where}")
    return float(ages[0][0])


@contextmanager
def short_receives(world: World, owner: str, rng: random.Random) -> Iterator[None]:
    """The owner's queue gives 1 to 10, in any order, and never lets anybody wait."""
    queue = world.broker.queues[owner]
    receive = queue.receive

    def some(limit: int, wait: int) -> list[Delivery]:
        rng.shuffle(queue.waiting)  # type: ignore[arg-type]
        return receive(rng.randint(1, limit), 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "receive", some)
        yield


class Other:
    """Another process of the owner: it takes messages and does nothing with them, at work or dead."""

    def __init__(self, world: World, owner: str, *, dies: bool) -> None:
        self._world, self._owner, self._dies = world, owner, dies
        self._id = clock.new_id()
        self._held: list[Delivery] = []
        self._until = 0.0

    def take(self, now: float) -> int:
        if not self._held:
            self._held, self._until = self._world.broker.queues[self._owner].receive(10, 1), now + VISIBILITY
            self.report(now)
        return len(self._held)

    def report(self, now: float) -> None:
        oldest = max((d.age for d in self._held), default=None)
        since = VISIBILITY - (self._until - now)
        self._world.execute(
            self._owner,
            "INSERT INTO receivers (id, reported_at, oldest) VALUES (%s, now(), now() - make_interval(secs => %s))"
            " ON CONFLICT (id) DO UPDATE SET reported_at = now(), oldest = excluded.oldest",
            [self._id, None if oldest is None else oldest + since],
        )

    def pass_on(self, now: float) -> None:
        """What it took is visible again when its timeout is over."""
        if self._held and now >= self._until:
            self._world.broker.queues[self._owner].extend(self._held, 0)
            self._held = []
            if self._dies:
                self._id = clock.new_id()
        if not self._dies or not self._held:
            self.report(now)
