"""`/dlq` of every service: what an operator sees of dead letters, and what comes of redriving or discarding them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orderflow import clock
from orderflow.contracts import Workflow
from orderflow.envelope import decode
from orderflow.routing import COORDINATOR, MACHINE, SERVICES
from tests.support.oracle import check
from tests.support.world import World

WHO = {"by": "ada", "why": "the handler is mended"}


def park_next(world: World, service: str, reason: str = "handler failed 5 times; last: KeyError('x')") -> str:
    """Parks what waits in a service's queue; the body."""
    queue = world.broker.queues[service]
    [delivery] = queue.receive(10, 0)
    queue.park(delivery, reason)
    return delivery.body


def shown(world: World, service: str, **query: Any) -> Any:
    answer = world.http(service).get("/dlq", query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.json


def settle(world: World, service: str, action: str, **body: Any) -> Any:
    answer = world.http(service).post(f"/dlq/{action}", json=WHO | body)
    assert answer.status_code == 200, answer.text
    return answer.json


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_it(world: World, service: str) -> None:
    """Empty, it says which queues there are; to redrive all of nothing is no error."""
    assert shown(world, service) == {
        "items": [], "complete": True,
        "queues": [{"name": f"{service}-{place}", "messages": 0} for place in ("outbox", "dlq")],
    }  # fmt: skip
    assert settle(world, service, "redrive", all=True) == {"settled": [], "missing": [], "left": 0}


def test_what_is_shown_names_order_handler_and_reason_and_nobodys_data(world: World) -> None:
    """No card token, address, task token or raw body, also where the handler's error quotes them."""
    order_id = world.place(workflow=Workflow.CHOREOGRAPHY)
    world.publish("order")
    body = park_next(
        world, "inventory",
        "handler failed 5 times; last: ValueError('pm_card_visa of Ada, 1 Main St')\nDETAIL:  Failing row contains (x)",
    )  # fmt: skip
    found = shown(world, "inventory")
    [letter] = found["items"]
    assert (letter["order_id"], letter["type"], letter["handler"]) == (order_id, "OrderPlaced", "ReserveStock")
    assert letter["message_id"] == json.loads(body)["id"]
    assert letter["workflow"] == "choreography"
    assert letter["receives"] == 1
    assert "failed 5 times" in letter["reason"]
    assert {"name": "inventory-dlq", "messages": 1} in found["queues"]
    for secret in ("pm_card", "Ada", "Main St", "Berlin", "10115", "Failing row"):
        assert secret not in json.dumps(found), secret
    settle(world, "inventory", "redrive", all=True)
    world.settle()


def test_what_can_not_be_read_is_shown_by_its_reason_and_size(world: World) -> None:
    world.broker.queues["payment"].put("no envelope, with a secret in it")
    world.deliver("payment")
    [letter] = shown(world, "payment")["items"]
    assert "no envelope" in letter["reason"]
    assert letter["size"] == len("no envelope, with a secret in it")
    assert "secret" not in json.dumps(letter)
    assert (letter["order_id"], letter["type"], letter["data"]) == (None, None, {})
    assert shown(world, "payment", order_id=clock.new_id())["items"] == []
    assert shown(world, "payment", id=letter["id"])["items"] == [letter]
    assert settle(world, "payment", "discard", ids=[letter["id"]])["left"] == 0


@pytest.mark.parametrize("workflow", list(Workflow))
def test_a_redrive_lets_the_order_continue(world: World, workflow: Workflow) -> None:
    """By message id, by order, or all; its timeline says who did it and why, and that is no answer of a coordinator."""
    for chosen in ("ids", "order_id", "all"):
        order_id = world.place(workflow=workflow)
        world.publish("order")
        service = "orchestrator" if COORDINATOR[workflow] == "orchestrator" else "inventory"
        body = park_next(world, service)
        world.settle()
        assert world.status(order_id) == "PLACED"
        value = {"ids": [json.loads(body)["id"]], "order_id": order_id, "all": True}[chosen]
        done = settle(world, service, "redrive", **{chosen: value})
        assert [letter["order_id"] for letter in done["settled"]] == [order_id]
        assert done["left"] == 0
        world.settle()
        assert world.status(order_id) == "CONFIRMED"
        [entry] = [e for e in timeline(world, order_id) if e["type"].startswith("DeadLetter")]
        assert (entry["type"], entry["service"]) == ("DeadLetterRedriven", service)
        assert entry["note"] == f"ada: the handler is mended ({decode(body).name})"
        assert entry["causation_id"] == json.loads(body)["id"]
    check(world.urls)
    assert world.parked() == []


def timeline(world: World, order_id: str) -> Any:
    return world.http("order").get(f"/orders/{order_id}/timeline").json["entries"]


FAIL = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a bug in the handler'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON payments FOR EACH ROW WHEN (NEW.state = 'undone') EXECUTE FUNCTION refuse()
"""


@pytest.mark.parametrize("workflow", list(Workflow))
def test_a_redriven_undo_ends_an_order_that_needs_attention(world: World, workflow: Workflow) -> None:
    """The answer is enough, but where the state machine gave up: there an operator's retry starts another execution."""
    world.execute("payment", FAIL)
    try:
        order_id = world.place(workflow=workflow, postal_code="00000")
        for _ in range(60):
            world.settle()
            world.expire_leases()
            for queue in world.broker.queues.values():
                queue.redeliver()
            world.pass_time(25)
            if world.status(order_id) == "NEEDS_ATTENTION":
                break
    finally:
        world.execute("payment", "DROP TRIGGER refuse ON payments; DROP FUNCTION refuse")
    assert world.status(order_id) == "NEEDS_ATTENTION"
    assert settle(world, "payment", "redrive", order_id=order_id)["settled"]
    world.settle()
    if COORDINATOR[workflow] == MACHINE:
        assert world.status(order_id) == "NEEDS_ATTENTION"
        assert world.http("order").post(f"/orders/{order_id}/retry", json=WHO).status_code == 202
        world.recover()
    assert world.status(order_id) == "CANCELLED"
    check(world.urls)


def test_a_redriven_message_may_fail_as_often_again(world: World) -> None:
    """Its failures are forgiven; otherwise the first one would park it again."""
    world.place(workflow=Workflow.CHOREOGRAPHY)
    world.publish("order")
    message_id = json.loads(park_next(world, "inventory"))["id"]
    world.execute("inventory", "INSERT INTO failures VALUES (%s, 5, 'x')", [message_id])
    settle(world, "inventory", "redrive", ids=[message_id])
    assert not world.execute("inventory", "SELECT 1 FROM failures WHERE message_id = %s", [message_id])
    world.settle()


def test_what_is_discarded_is_gone_and_kept_in_the_timeline(world: World) -> None:
    order_id = world.place(workflow=Workflow.CHOREOGRAPHY)
    world.publish("order")
    park_next(world, "inventory")
    done = settle(world, "inventory", "discard", order_id=order_id)
    assert len(done["settled"]) == 1
    world.settle()
    assert world.parked() == []
    assert world.status(order_id) == "PLACED"
    assert [e["type"] for e in timeline(world, order_id) if e["kind"] == "note"] == ["DeadLetterDiscarded"]
    world.recover()
    assert world.status(order_id) == "CONFIRMED", "its owner has sent it again"


def test_a_forged_message_leaves_no_trace_elsewhere(world: World) -> None:
    """About an order that nobody placed there is nothing to note, and no letter about a letter."""
    order_id = world.place(workflow=Workflow.CHOREOGRAPHY)
    world.publish("order")
    forged = decode(park_next(world, "inventory")).model_copy(update={"subject": clock.new_id()})
    world.broker.queues["inventory"].parked.clear()
    world.broker.queues["inventory"].put(forged.encode())
    park_next(world, "inventory")
    settle(world, "inventory", "discard", all=True)
    world.settle()
    assert world.parked() == []
    world.recover()
    assert world.status(order_id) == "CONFIRMED"


@pytest.mark.parametrize(
    "body",
    [{}, {"all": False}, {"ids": []}, {"ids": ["x"], "all": True}, {"order_id": "no-id"}, {"ids": ["a b"]},
     {"all": True, "by": ""}, {"all": True, "why": ""}, {"all": True, "more": 1}],
)  # fmt: skip
def test_what_is_meant_must_be_said(world: World, body: dict[str, Any]) -> None:
    """One of ids, order_id and all; and always who, and why."""
    for action in ("redrive", "discard"):
        assert world.http("shipping").post(f"/dlq/{action}", json=WHO | body).status_code == 422


def test_ids_that_are_not_there_are_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settle(world, "shipping", "redrive", ids=["nothing-here"])["missing"] == ["nothing-here"]
