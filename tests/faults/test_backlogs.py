"""FAULTS row 25: no order is cancelled while its reply or its command waits anywhere: in its owner's queue, which
delivers 1 to 10 at a time, with another process, hidden for a while, in an outbox, or in a service's queue."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from orderflow import clock
from orderflow.broker import Delivery
from orderflow.contracts import EventBus, Workflow
from orderflow.messaging.guard import Retry
from orderflow.routing import COORDINATOR, MACHINE
from tests.support.load import each_kind
from tests.support.oracle import check
from tests.support.world import World, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.row(25)]

Kind = tuple[Workflow, EventBus]

VISIBILITY, LONG_POLL, UNDO_AFTER = 30, 20, 60.0
"""Seconds; the default."""

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
    """All services except these handle their queues."""
    others = [name for name in world.services if name not in but]
    while True:
        for name in world.services:
            world.publish(name)
        if not sum(world.deliver(name) for name in others):
            return


def look(world: World, owner: str) -> float:
    """The owner reports and handles due orders, as it does every second; returns how far behind its watermark was."""
    service = world.services[owner]
    assert service.receivers
    service.outbox.flush()
    service.receivers.report()
    seen = service.receivers.look()
    service.sweeper.sweep(seen.lag, seen.resumed)  # type: ignore[union-attr]
    return seen.lag


def publish(world: World) -> None:
    """The order service sends its staged messages, and records that."""
    world.publish("order")
    world.services["order"].outbox.flush()


def waited(world: World, owner: str) -> float:
    """Seconds for which the oldest open order has waited."""
    where = {"order": "orders WHERE open", "orchestrator": "sagas WHERE active"}[owner]
    ages = world.execute(owner, f"SELECT coalesce(max(extract(epoch FROM now() - progress_at)), 0)::float FROM {where}")
    return float(ages[0][0])


@contextmanager
def short_receives(world: World, owner: str, rng: random.Random) -> Iterator[None]:
    """The owner's queue: it delivers 1 to 10 messages, in any order, and never waits for messages."""
    queue = world.broker.queues[owner]
    receive = queue.receive

    def some(limit: int, wait: int) -> list[Delivery]:
        rng.shuffle(queue.waiting)  # type: ignore[arg-type]
        return receive(rng.randint(1, limit), 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "receive", some)
        yield


class Other:
    """Another process of the owner: it receives messages and handles none, because it is busy or dead."""

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
        """Its messages become visible again when their timeout ends."""
        if self._held and now >= self._until:
            self._world.broker.queues[self._owner].extend(self._held, 0)
            self._held = []
            if self._dies:
                self._id = clock.new_id()
        if not self._dies or not self._held:
            self.report(now)


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


@every_owner
def test_questions_that_could_not_be_sent_for_long(world: World, kind: Kind) -> None:
    """Ten minutes without a broker, and then a backlog of minutes in the service that replies: no order is cancelled,
    and nothing is resent."""
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
    """Behind its own queue or not, an owner resends the same, and fires deadlines up to its watermark."""
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
    """The budget is used up: it has ten, and one percent of that per second. Each order's clock starts with its
    resend."""
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
    assert statuses(thrifty, orders)["PLACED"] >= 30 - asked[-1], "no order is given up without a resend"
