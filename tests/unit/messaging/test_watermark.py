"""What one process concludes from its receives: everything sent before its watermark has been handled, whatever the
queue gives, in whatever order."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import count
from math import inf

import pytest

from orderflow.broker import Delivery
from orderflow.messaging.watermark import AGES, CALM, SETTLED, Watermark

pytestmark = pytest.mark.row(25)


class Clock:
    """Stands still until it is moved."""

    now = 100_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watermark(clock: Clock) -> Watermark:
    return Watermark(long_poll=20, visibility=30, now=clock)


_numbers = count()


def message(age: float, receives: int = 1) -> Delivery:
    number = next(_numbers)
    return Delivery("{}", f"receipt-{number}", receives, f"broker-{number}", age)


def test_only_an_empty_long_poll_says_that_nothing_is_there(watermark: Watermark, clock: Clock) -> None:
    assert watermark.lag() == inf, "never asked"
    watermark.received([], clock.now, wait=0)
    clock.now += 10
    assert watermark.lag() == inf, "a poll that does not wait asks some of the servers only"
    few = [message(0.1) for _ in range(3)]
    watermark.received(few, clock.now, wait=20)
    watermark.settled(few)
    clock.now += 10
    assert watermark.lag() == inf, "fewer than asked for says nothing"
    began = clock.now
    clock.now += 20
    watermark.received([], began, wait=20)
    assert watermark.lag() == 20, "when that poll began"


def test_an_empty_poll_counts_when_others_had_time_to_object(watermark: Watermark, clock: Clock) -> None:
    watermark.received([], clock.now, wait=1)
    clock.now += SETTLED - 1
    assert watermark.lag() == inf
    clock.now += 1
    assert watermark.lag() == pytest.approx(SETTLED)
    for n in range(10):
        clock.now += 1
        watermark.received([], clock.now, wait=1)
        assert n < SETTLED or watermark.lag() <= SETTLED, "the latest of many that is old enough"


def test_what_is_in_flight_holds_it_back(watermark: Watermark, clock: Clock) -> None:
    watermark.received([], clock.now, wait=1)
    clock.now += 5
    held = [message(40), message(2)]
    watermark.received(held, clock.now, wait=1)
    assert watermark.lag() == 40
    watermark.settled(held[:1])
    assert watermark.lag() == pytest.approx(5), "the empty poll, which is older than the other"
    clock.now += 1
    watermark.settled(held[1:])
    assert watermark.lag() == pytest.approx(6)


def test_a_receive_whose_answer_is_lost_may_have_taken_messages(watermark: Watermark, clock: Clock) -> None:
    """They are invisible until their visibility timeout, and nobody has them."""
    watermark.received([], clock.now, wait=1)
    watermark.failed()
    clock.now += 29
    watermark.received([], clock.now, wait=1)
    clock.now += 5
    assert watermark.lag() == inf
    watermark.received([], clock.now, wait=1)
    clock.now += 5
    assert watermark.lag() == 5


def test_a_receive_that_was_refused_has_taken_nothing(watermark: Watermark, clock: Clock) -> None:
    """A service that starts before its broker is not held up by having asked."""
    watermark.failed(took_nothing=True)
    assert not watermark.hearing
    watermark.received([], clock.now, wait=1)
    clock.now += 5
    assert watermark.lag() == 5


def test_it_hears_as_long_as_its_polls_are_answered(watermark: Watermark, clock: Clock) -> None:
    assert not watermark.hearing
    watermark.received([], clock.now, wait=20)
    clock.now += 21
    assert watermark.hearing, "its long poll waits"
    clock.now += 10
    assert not watermark.hearing, "a broker that hangs"
    watermark.received([], clock.now, wait=20)
    assert watermark.hearing
    watermark.failed()
    assert not watermark.hearing


def test_under_a_steady_load_it_follows_though_no_poll_is_empty(watermark: Watermark, clock: Clock) -> None:
    for _ in range(10 * int(CALM * AGES[0])):
        clock.now += 0.1
        young = [message(0.5), message(0.2)]
        watermark.received(young, clock.now, wait=20)
        watermark.settled(young)
    clock.now += 0.1
    assert watermark.lag() <= AGES[0] + 0.2


def test_one_that_was_given_out_before_says_nothing_of_the_queue(watermark: Watermark, clock: Clock) -> None:
    """A message that is retried for a day must not hold the deadlines of all for a day."""
    for n in range(10 * int(CALM * AGES[0])):
        clock.now += 0.1
        given = [message(0.5), *([message(80_000, receives=40)] if n % 7 == 0 else [])]
        watermark.received(given, clock.now, wait=20)
        watermark.settled(given)
    clock.now += 0.1
    assert watermark.lag() <= AGES[0] + 0.2


@dataclass
class Shuffled:
    """A queue that gives 1 to 10 of its messages in any order, however long it is."""

    rng: random.Random
    waiting: list[float]
    """When each was sent."""

    def receive(self) -> list[float]:
        taken = []
        for _ in range(min(self.rng.randint(1, 10), len(self.waiting))):
            i = self.rng.randrange(len(self.waiting))
            self.waiting[i], self.waiting[-1] = self.waiting[-1], self.waiting[i]
            taken.append(self.waiting.pop())
        return taken


@pytest.mark.parametrize(("busy", "seed"), [(0.4, 1), (0.4, 2), (0.4, 3), (0.9, 1)])
def test_a_backlog_of_ten_deadlines_in_any_order(watermark: Watermark, clock: Clock, seed: int, busy: float) -> None:
    """600 s of messages wait. Never is one left that was sent before the watermark; and after the backlog the watermark
    follows again, though the load continues."""
    rng = random.Random(seed)
    per_second, step = 10, 1 / 10
    queue = Shuffled(rng, [clock.now - rng.uniform(0, 600) for _ in range(600 * per_second)])
    in_flight: list[tuple[float, list[Delivery], list[float]]] = []
    taken_per_second, room, caught_up, followed, drained_at = per_second / busy, 0.0, 0, 0.0, inf
    began = clock.now
    while clock.now < min(began + 6000, drained_at + 120):
        clock.now += step
        queue.waiting.append(clock.now)
        room = min(room + taken_per_second * step, 20.0)
        while in_flight and in_flight[0][0] <= clock.now:
            watermark.settled(in_flight.pop(0)[1])
        if room >= 10:
            given = queue.receive()
            room -= len(given) or 1
            deliveries = [message(clock.now - sent) for sent in given]
            watermark.received(deliveries, clock.now, wait=1)
            if deliveries:
                in_flight.append((clock.now + rng.uniform(0.05, 0.3), deliveries, given))
                in_flight.sort(key=lambda flight: flight[0])
        lag = watermark.lag()
        if lag < inf:
            left = queue.waiting + [sent for *_, sent_at in in_flight for sent in sent_at]
            assert min(left, default=clock.now) >= clock.now - lag - 1e-6
            caught_up += 1
        if len(queue.waiting) < per_second and drained_at == inf:
            drained_at = clock.now
        followed = lag
    assert drained_at < inf
    assert caught_up
    assert followed < 30, "under the load that continues"
