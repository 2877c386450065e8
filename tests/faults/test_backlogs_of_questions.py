"""FAULTS row 25: no order is cancelled whose question waits: in an outbox, in line with a service, for its owner's
budget."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from tests.support.oracle import check
from tests.support.waiting_lines import (
    OWNED,
    UNDO_AFTER,
    Kind,
    every_owner,
    look,
    owner_of,
    place,
    publish,
    short_receives,
    statuses,
    work,
)
from tests.support.world import World, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.row(25)]


@pytest.fixture
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


@every_owner
def test_questions_that_could_not_be_sent_for_long(world: World, kind: Kind) -> None:
    """Ten minutes without a broker, and then a backlog of minutes in the service that answers: no order is cancelled,
    and none is asked twice."""
    owner = owner_of(kind)
    orders = place(world, kind, 40)
    if owner == "orchestrator":
        world.publish("order")
        while world.deliver(owner):
            pass
    world.services[owner].publisher._lanes.clear()  # they waited for too long
    world.move_clocks(600)
    step = world.services[owner].consumer.step
    with short_receives(world, owner, random.Random(0)):
        for _ in range(3):
            step(1)
            world.move_clocks(4)
            look(world, owner)
        assert not world.broker.queues["inventory"].waiting
        world.relay()
        assert len(world.broker.queues["inventory"].waiting) == len(orders)
        for _ in range(20):  # it takes 2 each 6 s
            queue = world.broker.queues["inventory"]
            rest = [queue.waiting.pop() for _ in range(max(0, len(queue.waiting) - 2))]
            world.deliver("inventory")
            queue.waiting.extend(reversed(rest))
            world.publish("inventory")
            for _ in range(3):
                work(world, "inventory")
                step(1)
                world.move_clocks(2)
                look(world, owner)
    assert set(statuses(world, orders)) <= {"PLACED", "CONFIRMED"}
    world.settle()
    assert statuses(world, orders) == {"CONFIRMED": len(orders)}
    notes = {"order": "order_log", "orchestrator": "saga_log"}[owner]
    assert world.execute(owner, f"SELECT count(*) FROM {notes} WHERE resend > 0") == [(0,)]
    check(world.urls, acknowledged=orders)


@pytest.fixture
def thrifty(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database, retry_budget=10) as made:
        yield made


@pytest.mark.parametrize("lag", [0.0, 11.0])
def test_an_owner_with_a_backlog_keeps_to_its_budget(thrifty: World, lag: float) -> None:
    """Behind its own queue or not: the same resends, and deadlines that fire as far as the watermark has come."""
    orders = place(thrifty, OWNED[0], 60)
    publish(thrifty)
    sweeper = thrifty.services["order"].sweeper
    assert sweeper
    for _ in range(4):
        thrifty.move_clocks(12)
        while sweeper.sweep(lag):
            pass
        publish(thrifty)
    assert len(orders) < len(thrifty.broker.queues["inventory"].waiting) <= len(orders) + 10 + 3
    assert statuses(thrifty, orders) == {"PLACED": len(orders)}
    for _ in range(3):
        thrifty.move_clocks(12)
        while sweeper.sweep(lag):
            pass
    assert statuses(thrifty, orders) == {"CANCELLING": len(orders)}


def test_after_downtime_all_are_asked_before_any_is_given_up(thrifty: World) -> None:
    """Out of the budget: it has ten, and one percent of that a second; each order's clock starts when it was asked."""
    orders = place(thrifty, OWNED[0], 30)
    publish(thrifty)
    thrifty.broker.queues["inventory"].waiting.clear()
    thrifty.move_clocks(3600)
    sweeper, budget = thrifty.services["order"].sweeper, thrifty.services["order"].sweeper._budget  # type: ignore[union-attr]
    assert sweeper
    asked, resumed = [], 0.0
    for _ in range(12):
        while sweeper.sweep(0, resumed=resumed):
            pass
        publish(thrifty)
        asked.append(len(thrifty.broker.queues["inventory"].waiting))
        if resumed < UNDO_AFTER:
            assert "CANCELLING" not in statuses(thrifty, orders)
        thrifty.move_clocks(12)
        resumed += 12
        budget._left = min(budget._size, budget._left + 1)
    assert asked[0] == 10, "at once"
    assert asked[-1] < 30, "paced"
    assert statuses(thrifty, orders)["PLACED"] >= 30 - asked[-1], "none is given up that was not asked"
