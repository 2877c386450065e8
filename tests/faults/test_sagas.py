"""FAULTS row 18: a reply that never comes, while its owner looks on and while it is down; in every workflow.

In one process (see `tests.support.world`), so that each fault happens exactly where it should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from orderflow.contracts import (
    EventBus,
    OrderConfirmed,
    Workflow,
)
from orderflow.routing import COORDINATOR
from orderflow.saga import STEPS, Step
from orderflow.saga.retry_budget import withheld
from tests.support.oracle import check
from tests.support.sagas import (
    Kind,
    coordinated_elsewhere,
    ended,
    every_kind,
    every_step,
    losing,
    place,
    wait,
)
from tests.support.system import KINDS, kind_id
from tests.support.world import BUILD, World, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.row(18)]


_WATCHED = (Workflow.CHOREOGRAPHY, Workflow.ORCHESTRATION, Workflow.HYBRID)
"""Workflows whose owner resends; a state machine does so by itself."""


@every_kind
@every_step
def test_a_reply_never_comes(world: World, step: Step, kind: Kind) -> None:
    """The step is done, but its reply is lost, however often the command is resent: the order is compensated at the
    deadline, not before. A resend that was not accepted at once restarts the clock."""
    with losing(world, step.success) as lost:
        order_id = place(world, kind)
        world.settle()
        failed = world.rules.failures
        for seconds in (10, 10, 20, 15):
            wait(world, seconds)
            assert world.status(order_id) in ("PLACED", "STOCK_RESERVED", "PAID")
        assert lost.total() > 2, "resent, and answered again"
        wait(world, 6)
        if world.rules.failures == failed:
            assert world.status(order_id) == "CANCELLED"
        assert ended(world, order_id) == "CANCELLED"
    check(world.urls, acknowledged=[order_id])
    assert world.parked() == []


@pytest.fixture
def thrifty(new_database: Callable[[str | None], str]) -> Iterator[World]:
    """A world whose owners may resend hardly anything."""
    with world_on(new_database, retry_budget=2) as made:
        yield made


@pytest.mark.parametrize("kind", [k for k in KINDS if k[0] in _WATCHED and k[1] is EventBus.SNS], ids=kind_id)
def test_a_retry_budget_that_is_used_up_holds_up_no_deadline(thrifty: World, kind: Kind) -> None:
    """Of many orders that get no reply, only a few are resent, and all are compensated in time."""
    owner, table = ("order", "order_log") if COORDINATOR[kind[0]] == "order" else ("orchestrator", "saga_log")
    before = withheld[owner,]
    with losing(thrifty, STEPS[0].success):
        orders = [place(thrifty, kind) for _ in range(12)]
        thrifty.settle()
        for seconds in (10, 10, 20, 15):
            wait(thrifty, seconds)
            assert {thrifty.status(order_id) for order_id in orders} == {"PLACED"}
        [(again,)] = thrifty.execute(owner, f"SELECT count(*) FROM {table} WHERE resend > 0")
        assert 2 <= again < len(orders)
        assert withheld[owner,] - before > len(orders)
        wait(thrifty, 6)
    assert {thrifty.status(order_id) for order_id in orders} == {"CANCELLED"}
    check(thrifty.urls, acknowledged=orders)


@coordinated_elsewhere
def test_the_confirmation_is_not_heard_of(world: World, kind: Kind) -> None:
    """The coordinator's deadline passes, and it asks the arbiter, whose decision is final: nothing is compensated."""
    with losing(world, OrderConfirmed) as lost:
        order_id = place(world, kind)
        world.settle()
        for seconds in (10, 10, 20, 15, 6, 10, *[10] * 20):
            if lost.total() <= 3:
                wait(world, seconds)
        assert lost.total() > 3
    active = "SELECT 1 FROM sagas WHERE order_id = %s AND active"
    for _ in range(60):
        if world.execute("orchestrator", active, [order_id]):
            wait(world, 10)
    assert world.status(order_id) == "CONFIRMED"
    assert not world.execute("orchestrator", active, [order_id])
    check(world.urls, acknowledged=[order_id])
    assert world.parked() == []


def asleep(world: World, seconds: float) -> None:
    """Everything is down for this long, and the broker forgets everything; then all starts, and the owners check."""
    for queue in world.broker.queues.values():
        queue.waiting.clear()
        queue.in_flight.clear()
    world.broker.machine.lose()
    for name, table in (("order", "orders"), ("orchestrator", "sagas")):
        times = ", ".join(f"{column} = {column} - make_interval(secs => %s)" for column in ("next_at", "progress_at"))
        world.execute(name, f"UPDATE {table} SET {times}", [seconds, seconds])
    for name in BUILD:
        world.restart(name)
    for _ in range(3):
        for owner in ("order", "orchestrator"):
            world.sweep(owner, resumed=0)
        world.settle()
    world.relay()
    world.settle()


@every_kind
@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_a_deadline_that_passed_while_its_owner_was_down(world: World, rounds: int, kind: Kind) -> None:
    """Everything is down for an hour with an order in flight: it continues, and nothing is compensated."""
    order_id = place(world, kind)
    for _ in range(rounds):
        for name in BUILD:
            world.publish(name)
            world.deliver(name)
    asleep(world, 3600)
    assert ended(world, order_id) == "CONFIRMED"
    check(world.urls, acknowledged=[order_id])


@every_kind
@every_step
def test_a_reply_that_does_not_come_after_that_either(world: World, step: Step, kind: Kind) -> None:
    """Then the deadline passes, a little later, and the order is compensated."""
    with losing(world, step.success) as lost:
        order_id = place(world, kind)
        world.settle()
        asleep(world, 3600)
        assert world.status(order_id) in ("PLACED", "STOCK_RESERVED", "PAID"), "resent once first"
        for _ in range(14):  # the deadline of a message that a failed call delayed starts when it was sent
            wait(world, 10)
        assert lost.total() > 1
    wait(world, 10)
    assert ended(world, order_id) == "CANCELLED"
    check(world.urls, acknowledged=[order_id])
