"""FAULTS row 2: a process dies at every boundary between two effects, in every workflow over both buses; nothing is
lost or doubled.

In one process (see `tests.support.world`): the same code and databases, and a crash that is exactly where it should be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from orderflow import failpoints
from orderflow.contracts import EventBus, Workflow
from tests.support.aws_like.rules import Rules
from tests.support.load import sizes
from tests.support.oracle import check
from tests.support.system import KINDS, kind_id
from tests.support.world import BUILD, Crash, World, world_on

CASES = {
    "success": ({}, "CONFIRMED"),
    "declined": ({"payment_method": "pm_card_declined"}, "CANCELLED"),
    "undeliverable": ({"postal_code": "00000"}, "CANCELLED"),
    "unanswered": ({"payment_method": "pm_card_timeout"}, "CONFIRMED"),
}
"""The outcomes. The last order waits for its provider twice: a call is one attempt here."""

TIMES = {EventBus.SNS: range(1, 20, 2), EventBus.EVENTBRIDGE: range(2, 20, 2)}
"""The occurrences of a point in a run without faults: each of them, over one bus or the other."""


_LEAST, _TURNS = 20, 200
"""Rounds of all services that are enough for an order to end; and if calls keep failing."""

_OPEN = "SELECT 1 FROM orders WHERE open LIMIT 1"


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database, Rules(1), provider_attempts=1, provider_timeout=0.1) as made:
        yield made


def run_with_crash(world: World, point: str, nth: int) -> bool:
    """All services work until one reaches `point` for the `nth` time and dies there, or no order is open any more.
    Returns whether one died. From time to time late events arrive and visibility timeouts expire, because a receive may
    have lost its answer."""
    left = [nth]

    def die() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Crash(point)

    failpoints.arm(point, die)
    try:
        for turn in range(_TURNS):
            if turn % 5 == 4:
                if turn > _LEAST and not world.execute("order", _OPEN):
                    return False
                world.time_out()
            for name in BUILD:
                try:
                    world.publish(name)
                    if world.broker.queues[name].waiting:
                        world.deliver(name)
                    world.services[name].outbox.flush()
                    world.end_backoffs(name)
                    world.call_again(name)
                except Crash:
                    failpoints.disarm()
                    world.restart(name)
                    return True
    finally:
        failpoints.disarm()
    return False


@pytest.mark.row(2)
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
@pytest.mark.parametrize("point", failpoints.POINTS)
@pytest.mark.parametrize("least", sizes(1, 50))
def test_a_crash_at_a_boundary_costs_nothing(
    world: World, point: str, kind: tuple[Workflow, EventBus], least: int, measured: Callable[..., None]
) -> None:
    """A crash at the first, second … occurrence, for an order of each outcome; then, until there were enough crashes,
    at random occurrences with several orders."""
    crashes = 0
    for case, (changes, expected) in CASES.items():
        for nth in TIMES[kind[1]] if case == "success" else (1, 3):
            order_id = world.place(**changes, workflow=kind[0], event_bus=kind[1])
            crashed = run_with_crash(world, point, nth)
            crashes += crashed
            world.recover()
            assert world.status(order_id) == expected, (case, point, nth)
            if not crashed:
                break
    chance = random.Random(f"{point} {kind}")
    while 0 < crashes < least:
        cases = chance.choices(list(CASES.values()), k=3)
        orders = [world.place(**changes, workflow=kind[0], event_bus=kind[1]) for changes, _ in cases]
        crashes += run_with_crash(world, point, chance.randint(1, 3))
        world.recover()
        assert [world.status(order_id) for order_id in orders] == [expected for _, expected in cases], crashes
    measured(crashes=crashes)
    check(world.urls)
    assert world.parked() == []
    assert crashes > 0, f"{point} was never reached"
