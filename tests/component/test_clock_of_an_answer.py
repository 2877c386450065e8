"""The clock of an answer starts when the question was sent, not when it was staged."""

from __future__ import annotations

import psycopg
import pytest

from orderflow.contracts import Workflow
from tests.support.world import World

OWNED = {
    Workflow.CHOREOGRAPHY: ("order", "orders", "id"),
    Workflow.ORCHESTRATION: ("orchestrator", "sagas", "order_id"),
}
"""Who waits for the answer, and where."""

owners = pytest.mark.parametrize("workflow", OWNED)


def waiting(world: World, workflow: Workflow) -> str:
    """An order whose question is in its owner's outbox for ten minutes, as when the broker was unavailable."""
    owner, table, _ = OWNED[workflow]
    order_id = world.place(workflow=workflow)
    if owner == "orchestrator":
        world.publish("order")
        world.deliver("orchestrator")
    world.services[owner].publisher._lanes.clear()  # as if it had waited for too long for the fast path
    world.execute(owner, f"UPDATE {table} SET progress_at = now() - interval '10 min', next_at = now()")
    return order_id


def waited(world: World, workflow: Workflow, order_id: str) -> float:
    owner, table, key = OWNED[workflow]
    age = f"SELECT extract(epoch FROM now() - progress_at)::float FROM {table} WHERE {key} = %s"
    found = world.execute(owner, age, [order_id])
    return float(found[0][0])


@owners
def test_a_message_that_is_sent_late_starts_the_clock(world: World, workflow: Workflow) -> None:
    order_id = waiting(world, workflow)
    assert waited(world, workflow, order_id) > 500
    world.relay()
    world.services[OWNED[workflow][0]].outbox.flush()
    assert waited(world, workflow, order_id) < 60
    world.settle()
    assert world.status(order_id) == "CONFIRMED"


@owners
def test_an_order_that_is_locked_is_restarted_later(world: World, workflow: Workflow) -> None:
    """Nobody waits for its lock, and its question counts as unsent until its clock was restarted."""
    owner, table, key = OWNED[workflow]
    order_id = waiting(world, workflow)
    with psycopg.connect(world.urls[owner]) as other:
        other.execute(f"SELECT 1 FROM {table} WHERE {key} = %s FOR UPDATE", [order_id])
        world.relay()
        world.services[owner].outbox.flush()
        assert world.execute(owner, "SELECT count(*) FROM outbox WHERE order_id = %s", [order_id]) == [(1,)]
    assert waited(world, workflow, order_id) > 500
    world.services[owner].outbox.flush()
    assert waited(world, workflow, order_id) < 60
    assert world.execute(owner, "SELECT count(*) FROM outbox WHERE order_id = %s", [order_id]) == [(0,)]
    world.settle()


@owners
def test_what_is_sent_in_time_costs_nothing(world: World, workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orderflow.messaging.late.LATE", 3600)  # this machine may be slow
    for name in ("order", "orchestrator"):
        monkeypatch.setattr(world.services[name].outbox._late, "_restart", lambda *late: pytest.fail("was in time"))
    order_id = world.place(workflow=workflow)
    world.settle()
    assert world.status(order_id) == "CONFIRMED"
