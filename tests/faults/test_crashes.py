"""FAULTS row 2: a process dies at every boundary between two effects, in every workflow; nothing is lost or doubled.

In one process (see `tests.support.world`): the same code and databases, and a crash that is exactly where it should be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from orderflow import failpoints
from orderflow.contracts import Workflow
from tests.support.oracle import check
from tests.support.world import BUILD, IN_MEMORY, Crash, World

CASES = {
    "success": ({}, "CONFIRMED"),
    "declined": ({"payment_method": "pm_card_declined"}, "CANCELLED"),
    "undeliverable": ({"postal_code": "00000"}, "CANCELLED"),
}


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    made = World({name: new_database(name) for name in BUILD} | {"providers": new_database(None)})
    yield made
    made.close()


def run_with_crash(world: World, point: str, nth: int) -> bool:
    """All services work until one reaches `point` for the `nth` time and dies there. Returns whether one did."""
    left = [nth]

    def die() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Crash(point)

    failpoints.arm(point, die)
    try:
        for _ in range(30):
            for name in BUILD:
                try:
                    world.publish(name)
                    world.deliver(name)
                    world.services[name].outbox.flush()
                except Crash:
                    failpoints.disarm()
                    world.restart(name)
                    return True
    finally:
        failpoints.disarm()
    return False


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("workflow", IN_MEMORY)
@pytest.mark.parametrize("point", failpoints.POINTS)
def test_a_crash_at_a_boundary_costs_nothing(world: World, point: str, workflow: Workflow) -> None:
    """At its first, second … time, for an order of each outcome. Every one of these crashes must have happened."""
    crashes = 0
    for case, (changes, expected) in CASES.items():
        for nth in range(1, 20) if case == "success" else (1, 3):
            order_id = world.place(**changes, workflow=workflow)
            crashed = run_with_crash(world, point, nth)
            crashes += crashed
            world.recover()
            assert world.status(order_id) == expected, (case, point, nth)
            if not crashed:
                break
    check(world.urls)
    assert world.parked() == []
    assert crashes > 0, f"{point} was never reached"
