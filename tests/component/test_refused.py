"""Messages that the broker refuses for good: what becomes of their orders, and what operators do with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pytest

from orderflow.broker import DeadLetter, Parcel, SendFailure
from orderflow.contracts import EventBus, Workflow
from orderflow.messaging.outbox_dead_letters import RefusedMessages
from orderflow.routing import COORDINATOR, MACHINE, Channel
from tests.support.load import each_kind
from tests.support.oracle import check
from tests.support.world import World

WHO: Final = {"by": "ada", "why": "the queue takes it now"}

Kind = tuple[Workflow, EventBus]


@contextmanager
def refusing(world: World, wanted: Callable[[Parcel], bool]) -> Iterator[list[str]]:
    """The broker refuses these for good, each time; their names."""
    refused: list[str] = []
    send = world.broker.send

    def picky(channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        bad = [i for i, parcel in enumerate(batch) if wanted(parcel)]
        refused.extend(batch[i].envelope.name for i in bad)
        rest = [(i, parcel) for i, parcel in enumerate(batch) if i not in bad]
        failed = send(channel, target, [parcel for _, parcel in rest]) if rest else ()
        return [
            *(SendFailure(i, "InvalidParameterValue: too long", final=True) for i in bad),
            *(SendFailure(rest[f.index][0], f.reason, f.final) for f in failed),
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.broker, "send", picky)
        yield refused


def settle(world: World, action: str, service: str = "payment", **body: Any) -> Any:
    answer = world.http(service).post(f"/dlq/{action}", json=WHO | body)
    assert answer.status_code == 200, answer.text
    return answer.json


def in_outbox(world: World, service: str = "payment") -> Any:
    found = world.http(service).get("/dlq").json
    [place] = [queue for queue in found["queues"] if queue["name"] == f"{service}-outbox"]
    assert place["messages"] == len(found["items"])
    return found["items"]


@pytest.mark.parametrize("kind", each_kind())
def test_an_order_ends_without_the_answer_that_was_refused(world: World, kind: Kind) -> None:
    """Payment's answer is never taken, however often it is asked: the order is undone at its deadline, with its money.
    Operators find what was refused, and redriven later it changes nothing."""
    with refusing(world, lambda parcel: parcel.envelope.name == "PaymentCharged") as refused:
        order_id = world.place(workflow=kind[0], event_bus=kind[1])
        world.recover()
    assert len(refused) > 1, "it was resent"
    assert world.status(order_id) == "CANCELLED"
    letters = in_outbox(world)
    assert {(one["type"], one["order_id"], one["queue"]) for one in letters} == {
        ("PaymentCharged", order_id, "payment-outbox")
    }
    assert "too long" in letters[0]["reason"]
    assert settle(world, "redrive", all=True)["left"] == 0
    world.relay()
    world.settle()
    assert in_outbox(world) == []
    assert world.status(order_id) == "CANCELLED"
    check(world.urls, acknowledged=[order_id])
    for queue in world.broker.queues.values():
        queue.parked.clear()


@pytest.mark.parametrize("way", ["redrive", "retry"])
@pytest.mark.parametrize("kind", each_kind())
def test_an_order_that_its_coordinator_can_not_be_told_of(world: World, kind: Kind, way: str) -> None:
    """Choreography undoes it at its deadline. Elsewhere nobody else knows it: NEEDS_ATTENTION, until an operator lets
    what was refused go, or throws it away and has it asked once more."""
    with refusing(world, lambda parcel: parcel.envelope.name == "OrderPlaced") as refused:
        order_id = world.place(workflow=kind[0], event_bus=kind[1])
        for _ in range(6):
            world.settle()
            world.pass_time(12)
    assert refused
    if COORDINATOR[kind[0]] == "order":
        world.recover()
        assert world.status(order_id) == "CANCELLED"
        settle(world, "discard", "order", all=True)
        world.settle()
        return
    assert world.status(order_id) == "NEEDS_ATTENTION"
    shown = world.http("order").get(f"/orders/{order_id}").json
    assert "too long" in shown["reason"]
    assert len(in_outbox(world, "order")) == len(refused) <= 2, "no more of them while it waits for an operator"
    if way == "redrive":
        settle(world, "redrive", "order", order_id=order_id)
        world.relay()
        world.settle()
    else:
        settle(world, "discard", "order", order_id=order_id)
        answer = world.http("order").post(f"/orders/{order_id}/retry", json=WHO)
        assert (answer.status_code, answer.json["status"], answer.json["reason"]) == (202, "PLACED", None)
        world.recover()
    assert world.status(order_id) == "CONFIRMED"
    assert world.http("order").get(f"/orders/{order_id}").json["reason"] is None
    check(world.urls, acknowledged=[order_id])
    assert in_outbox(world, "order") == []


@pytest.mark.parametrize("kind", each_kind())
def test_a_compensation_whose_answers_are_refused_needs_an_operator(world: World, kind: Kind) -> None:
    """The money is back, and nobody hears of it: NEEDS_ATTENTION. What was refused, once redriven, is the answer; but a
    state machine has ended meanwhile, there an operator's retry asks once more."""
    with refusing(world, lambda parcel: parcel.envelope.name == "PaymentRefunded") as refused:
        order_id = world.place(workflow=kind[0], event_bus=kind[1], postal_code="00000")
        for _ in range(60):
            world.settle()
            world.pass_time(25)
            if world.status(order_id) == "NEEDS_ATTENTION":
                break
    assert world.status(order_id) == "NEEDS_ATTENTION"
    assert len(refused) == len(in_outbox(world)) > 1
    settled = settle(world, "redrive", order_id=order_id)["settled"]
    assert len(settled) == len(refused)
    world.relay()
    world.settle()
    if COORDINATOR[kind[0]] == MACHINE:
        assert world.status(order_id) == "NEEDS_ATTENTION"
        assert world.http("order").post(f"/orders/{order_id}/retry", json=WHO).status_code == 202
        world.recover()
    assert world.status(order_id) == "CANCELLED"
    check(world.urls, acknowledged=[order_id])
    assert [e["note"] for e in timeline(world, order_id) if e["type"] == "DeadLetterRedriven"] == [
        "ada: the queue takes it now (PaymentRefunded)"
    ] * len(refused)


def timeline(world: World, order_id: str) -> Any:
    return world.http("order").get(f"/orders/{order_id}/timeline").json["entries"]


def test_what_one_operator_holds_no_other_gets(world: World) -> None:
    """As with a queue: held for a while, given back, thrown away; and what waits to be sent is nobody's letter."""
    with refusing(world, lambda parcel: parcel.envelope.name == "StockReserved"):
        orders = [world.place(workflow=Workflow.ORCHESTRATION) for _ in range(3)]
        world.settle()
    place = RefusedMessages(world.services["inventory"].database, "inventory")
    first = place.take(2)
    [other] = place.take(10)
    assert place.take(10) == []
    assert place.depth() == 3
    assert {letter.queue for letter in first} == {"inventory-outbox"}
    place.give_back(first)
    assert place.take(10) == first
    place.discard([other])
    assert place.depth() == 2
    assert place.redrive([*first, other]) == first
    assert place.depth() == 0
    waiting = world.execute("inventory", "SELECT entry::text FROM outbox")
    assert {entry for (entry,) in waiting}.isdisjoint(letter.id for letter in first), "as if staged now"
    stale: Sequence[DeadLetter] = first
    place.discard(stale)  # it is on its way already
    place.give_back(stale)
    world.relay()
    world.settle()
    world.recover()
    assert {world.status(order_id) for order_id in orders} == {"CONFIRMED"}
    check(world.urls, acknowledged=orders)
