"""Owners that meet one order they can't look after: the others are looked after all the same."""

from __future__ import annotations

from orderflow.contracts import Workflow
from tests.support.world import World


def test_a_saga_whose_step_is_not_known_keeps_no_other(world: World) -> None:
    """After a rollback, of newer code. It is shown, stays as it was, and goes on once its step is known again."""
    orders = [world.place(workflow=Workflow.ORCHESTRATION) for _ in range(2)]
    world.publish("order")
    world.deliver("orchestrator")
    world.publish("orchestrator")
    world.broker.queues["inventory"].waiting.clear()
    saga = "UPDATE sagas SET open_type = %s WHERE order_id = %s"
    world.execute("orchestrator", saga, ["CheckFraud", orders[0]])
    as_it_was = "SELECT state, facts, reason, sends FROM sagas WHERE order_id = %s"
    before = world.execute("orchestrator", as_it_was, [orders[0]])
    for _ in range(2):
        world.pass_time(12)
        world.settle()
    assert world.status(orders[1]) == "CONFIRMED"
    assert world.execute("orchestrator", as_it_was, [orders[0]]) == before
    shown = world.http("orchestrator").get("/sagas").json["items"]
    assert {one["waiting_for"][0]["step"] for one in shown if one["order_id"] == orders[0]} == {"CheckFraud"}
    world.execute("orchestrator", saga, ["ReserveStock", orders[0]])
    world.recover()
    assert world.status(orders[0]) == "CONFIRMED"
