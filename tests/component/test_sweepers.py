"""One order that can't be looked after, or one message that can't be read, keeps no others."""

from __future__ import annotations

from orderflow.contracts import Workflow
from tests.support.world import World


def test_a_saga_whose_step_is_not_known_keeps_no_other(world: World) -> None:
    """After a rollback, of newer code. It is shown, stays as it was, and continues once its step is known again."""
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


def test_a_staged_message_that_can_not_be_read_keeps_no_other(world: World) -> None:
    """Of a newer process that is gone: it stays for one that can, and what is behind it is sent."""
    orders = [world.place(workflow=Workflow.CHOREOGRAPHY) for _ in range(2)]
    world.restart("order")  # before it could send
    channel = "UPDATE outbox SET channel = %s WHERE order_id = %s RETURNING 1"
    assert world.execute("order", channel, ["pigeon", orders[0]])
    world.relay()
    world.settle()
    assert [world.status(order_id) for order_id in orders] == ["PLACED", "CONFIRMED"]
    assert world.execute("order", channel, ["bus", orders[0]])
    world.relay()
    world.settle()
    assert world.status(orders[0]) == "CONFIRMED"
