"""FAULTS row 25: no order is cancelled whose answer waits anywhere: in its owner's queue, which gives 1 to 10
at a time, with another process, or hidden for a while."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from orderflow.messaging.guard import Retry
from tests.support.load import each_kind
from tests.support.oracle import check
from tests.support.waiting_lines import (
    LONG_POLL,
    UNDO_AFTER,
    VISIBILITY,
    Kind,
    Other,
    every_owner,
    look,
    owner_of,
    place,
    short_receives,
    statuses,
    waited,
    work,
)
from tests.support.world import World, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.row(25)]


@pytest.fixture
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


@pytest.mark.parametrize("kind", each_kind())
def test_answers_that_wait_anywhere(world: World, kind: Kind, seed: int, measured: Callable[..., None]) -> None:
    """Every command is answered at once; the replies wait for minutes, in the queue and with processes that are busy
    or dead. The owner checks its deadlines every few seconds."""
    rng, owner, now = random.Random(seed), owner_of(kind), 0.0
    orders = place(world, kind, 12)
    late, hidden, lags = 0, 0, []
    with short_receives(world, owner, rng):
        others = [Other(world, owner, dies=dies) for dies in (False, True)]
        for number in range(75):
            work(world, owner)
            if rng.random() < 0.6:
                hidden += rng.choice(others).take(now)
            consumer = world.services[owner].consumer
            if number < 2 or number % 25 > 21:
                consumer.step(1)
            else:  # for longer than a deadline it receives nothing, from servers that hold no messages
                consumer.watermark.received([], consumer.watermark.now(), wait=0)
            seconds = rng.uniform(3, 6)
            world.move_clocks(seconds)
            now += seconds
            for other in others:
                other.pass_on(now)
            late += waited(world, owner) >= UNDO_AFTER
            lags.append(look(world, owner))
    assert set(statuses(world, orders)) <= {"PLACED", "STOCK_RESERVED", "PAID", "CONFIRMED"}
    world.broker.queues[owner].redeliver()
    world.settle()
    measured(hidden=hidden, looks_past_a_deadline=late, passed_s=now)
    assert hidden, "another process had answers"
    assert late, "orders were past their deadline"
    assert statuses(world, orders) == {"CONFIRMED": len(orders)}
    check(world.urls, acknowledged=orders)


@every_owner
def test_what_nobody_answers_ends_all_the_same(world: World, kind: Kind) -> None:
    """The queue is empty and the processes report it: then the deadline fires, a few seconds late at most."""
    owner = owner_of(kind)
    [order_id] = place(world, kind, 1)
    work(world, "inventory")
    world.broker.queues["inventory"].waiting.clear()
    with short_receives(world, owner, random.Random(0)):
        for passed in range(0, 90, 3):
            world.services[owner].consumer.step(1)
            world.move_clocks(3)
            lag = look(world, owner)
            world.publish(owner)
            world.broker.queues["inventory"].waiting.clear()
            assert passed < 9 or lag < 10
            if passed + 3 < UNDO_AFTER:
                assert world.status(order_id) == "PLACED"
    work(world)
    assert world.status(order_id) in ("CANCELLED", "CANCELLING")


@every_owner
def test_one_killed_process_holds_deadlines_no_longer_than_its_messages_are_hidden(world: World, kind: Kind) -> None:
    owner = owner_of(kind)
    place(world, kind, 1)
    work(world, owner)
    with short_receives(world, owner, random.Random(0)):
        Other(world, owner, dies=True).report(0)
        lags = {}
        for passed in range(3, 75, 3):
            world.services[owner].consumer.step(1)
            world.move_clocks(3)
            lags[passed] = look(world, owner)
    assert min(lag for passed, lag in lags.items() if 6 <= passed < VISIBILITY + LONG_POLL - 3) > 1e9
    assert lags[66] < 10


@every_owner
def test_what_is_given_back_holds_its_own_order_only(world: World, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that this owner can't handle yet is hidden for up to 15 minutes: its order waits, but the deadlines of
    other orders don't."""
    owner = owner_of(kind)
    given_back, lost = place(world, kind, 2)
    work(world, owner)
    queue, service = world.broker.queues[owner], world.services[owner]
    if owner == "orchestrator":
        for _ in range(2):  # the sagas begin
            world.deliver(owner)
            work(world, owner)
    queue.waiting = type(queue.waiting)(d for d in queue.waiting if lost not in d.body)
    process = service.processor.process
    monkeypatch.setattr("orderflow.messaging.consumer._delay", lambda count, soon=False: 900)
    with short_receives(world, owner, random.Random(0)), monkeypatch.context() as patch:
        patch.setattr(
            service.processor, "process",
            lambda envelopes: [Retry("not yet") if e.subject == given_back else process([e])[0] for e in envelopes],
        )  # fmt: skip
        service.consumer.step(1)
        assert queue.in_flight, "hidden"
        for _ in range(30):
            service.consumer._database_doubtful = False
            service.consumer.step(1)
            world.move_clocks(3)
            look(world, owner)
            world.publish(owner)
            world.broker.queues["inventory"].waiting.clear()
    assert world.status(given_back) != "CANCELLING", "its answer is hidden"
    notes = {"order": "order_log", "orchestrator": "saga_log"}[owner]
    late = world.execute(owner, f"SELECT order_id::text FROM {notes} WHERE note = 'deadline'")
    assert late == [(lost,)]
