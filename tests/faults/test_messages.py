"""FAULTS rows 4, 5 and 16, in one process: repeats, disorder, undo before command, and the largest messages."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from orchestrator.engine import message_for
from orderflow import clock
from orderflow import contracts as c
from orderflow.broker.aws.step_functions import StepFunctions
from orderflow.broker.memory import MemoryQueue
from orderflow.contracts import EventBus, Workflow, name_of
from orderflow.envelope import MAX_BYTES, compose, decode
from orderflow.errors import Problem, Undecodable
from orderflow.routing import TABLE
from orderflow.saga import STEPS, Step
from services.order.placement import HEADROOM
from services.order.schemas import MAX_LINES
from tests.support.load import each_kind, sizes
from tests.support.oracle import check
from tests.support.world import BUILD, World, request

OUTCOMES = {
    "success": ({}, "CONFIRMED"),
    "sold out": ({"sku": "SOLDOUT-1"}, "CANCELLED"),
    "declined": ({"payment_method": "pm_card_declined"}, "CANCELLED"),
    "undeliverable": ({"postal_code": "00000"}, "CANCELLED"),
}

ORDER = c.OrderSnapshot(
    items=(c.Item(sku="BOOK-1", quantity=1),),
    total=c.Money(amount=1, currency="EUR"),
    payment_method="pm_card_visa",
    address=c.Address(**request().shipping_address.model_dump()),
)

Kind = tuple[Workflow, EventBus]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("outcome", list(OUTCOMES))
@pytest.mark.parametrize("kind", each_kind())
@pytest.mark.row(4)
def test_five_times_and_once_more_later(
    world: World, kind: Kind, outcome: str, monkeypatch: pytest.MonkeyPatch, measured: Callable[..., None]
) -> None:
    """Row 4: every message arrives five times at once, and again after completion: the state is that of a clean run.

    The messages that start an execution and the answers to its tasks are repeated, too."""
    changes, expected = OUTCOMES[outcome]
    changes = {**changes, "workflow": kind[0], "event_bus": kind[1]}
    sent: list[Callable[[], object]] = []
    delivered = 0

    def five_times(deliver: Callable[..., object]) -> Callable[..., object]:
        def once(*what: object) -> object:
            nonlocal delivered
            delivered += 1
            return deliver(*what)

        def repeat(*what: object) -> object:
            sent.append(lambda: once(*what))
            return [once(*what) for _ in range(5)][-1]

        return repeat

    clean = world.place(**changes)
    world.settle()
    with world.rules.calmed(), monkeypatch.context() as patch:  # which counts what it makes of each message
        for receiver, name in ((MemoryQueue, "put"), (StepFunctions, "start"), (StepFunctions, "answer")):
            patch.setattr(receiver, name, five_times(getattr(receiver, name)))
        repeated = world.place(**changes)
        world.settle()
    assert len(sent) >= 2
    first = snapshot(world, repeated)
    with world.rules.calmed():
        for again in sent:
            again()
    world.settle()
    measured(messages=len(sent), duplicates=delivered - len(sent))
    assert world.status(repeated) == expected
    assert delivered == 6 * len(sent)
    assert snapshot(world, repeated) == first == snapshot(world, clean)
    check(world.urls)
    assert world.parked() == []


def snapshot(world: World, order_id: str) -> dict[str, object]:
    """What all services store about an order, without ids and times."""
    one = [order_id]
    return {
        "order": world.execute("order", "SELECT status, facts, reason FROM orders WHERE id = %s", one),
        "saga": world.execute("orchestrator", "SELECT state, facts, reason FROM sagas WHERE order_id = %s", one),
        "stock": world.execute("inventory", "SELECT state, skus FROM reservations WHERE order_id = %s", one),
        "payment": world.execute("payment", "SELECT state, reason FROM payments WHERE order_id = %s", one),
        "shipment": world.execute("shipping", "SELECT state, reason FROM shipments WHERE order_id = %s", one),
        "ledger": world.execute("providers", "SELECT kind, amount FROM ledger WHERE order_id = %s ORDER BY kind", one),
    }


@pytest.mark.parametrize("kind", each_kind())
@pytest.mark.row(5)
def test_shuffled_and_late(world: World, kind: Kind, seed: int, measured: Callable[..., None]) -> None:
    """Row 5: messages arrive in any order and up to some seconds late; some orders are cancelled meanwhile."""
    chance = random.Random(seed)
    outcomes = [changes for changes, _ in OUTCOMES.values()]
    orders = [world.place(**chance.choice(outcomes), workflow=kind[0], event_bus=kind[1]) for _ in range(12)]
    delayed = shuffled = cancelled = 0
    cancelling = chance.sample(range(30), 3)  # early, so that some are still open
    for turn in range(60):
        name = chance.choice(sorted(BUILD))
        queue = world.broker.queues[name]
        first = [queue.waiting.popleft() for _ in range(len(queue.waiting) // 2)]
        late = chance.sample(first, len(first))
        delayed += len(late)
        shuffled += sum(one is not other for one, other in zip(first, late, strict=True))
        queue.waiting.extend(late)
        world.pass_time(chance.uniform(0, 0.5))
        world.publish(name)
        world.deliver(name)
        if turn in cancelling:
            cancelled += world.cancel(chance.choice(orders)) == 202
    measured(delayed=delayed, shuffled=shuffled, cancelled=cancelled)
    assert min(delayed, shuffled, cancelled) > 0
    world.recover()  # a resent message may have come between a compensation and its reply: then the owner has to resend
    check(world.urls, acknowledged=orders)
    assert world.parked() == []


@pytest.mark.parametrize("kind", each_kind())
@pytest.mark.row(18)
def test_cancelled_before_anybody_heard_of_it(world: World, kind: Kind) -> None:
    """The order's first message is lost, and the customer cancels: the order is cancelled without an operator."""
    order_id = world.place(workflow=kind[0], event_bus=kind[1])
    with world.rules.calmed():
        world.publish("order")
    lost = world.broker.machine.lose() + sum(len(queue.waiting) for queue in world.broker.queues.values())
    for queue in world.broker.queues.values():
        queue.waiting.clear()
    assert lost
    assert world.cancel(order_id) == 202
    world.recover()
    assert world.status(order_id) == "CANCELLED"
    check(world.urls, acknowledged=[order_id])


@pytest.mark.parametrize("number", sizes(25, 170))
@pytest.mark.parametrize("step", STEPS, ids=lambda s: s.name)
@pytest.mark.parametrize("kind", each_kind())
@pytest.mark.row(5)
def test_undo_before_command(world: World, kind: Kind, step: Step, number: int) -> None:
    """Row 5: a compensation that overtakes its command prevents its effect; 510 times per kind at full size."""
    before = len(world.execute("providers", "SELECT 1 FROM ledger"))
    ids = sorted(clock.new_id() for _ in range(number))
    for message in (asks_for(step.undo, kind[0]), asks_for(step.command, kind[0])):
        for order_id in ids:
            envelope = compose(
                message, source="test", order_id=order_id, workflow=kind[0], event_bus=kind[1], task_token="forged"
            )
            world.broker.queues[step.service].put(envelope.encode())
        queue = world.broker.queues[step.service]
        while world.deliver(step.service) or queue.in_flight:
            queue.redeliver()
    answers = [decode(body) for (body,) in world.execute(step.service, "SELECT body FROM outbox")]
    refusals = [e for e in answers if e.name == name_of(step.refusal)]
    assert sorted(e.subject for e in refusals) == ids
    assert {e.data["reason"] for e in refusals} == {c.UNDONE}
    assert sorted(e.subject for e in answers if e.name == name_of(step.undone)) == ids
    assert len(world.execute("providers", "SELECT 1 FROM ledger")) == before
    world.publish(step.service)
    for queue in world.broker.queues.values():
        queue.waiting.clear()  # no service knows these orders
    world.settle()
    check(world.urls)


def asks_for(command: type[c.Message], workflow: Workflow) -> c.Message:
    """The message that makes a service act in a workflow: the command, or the event that it reacts to."""
    if command not in TABLE[workflow]:
        if command in {step.undo for step in STEPS}:
            return c.OrderCancellationRequested()
        return {
            c.ReserveStock: c.OrderPlaced(order=ORDER),
            c.ChargePayment: c.StockReserved(items=ORDER.items, order=ORDER),
            c.ScheduleShipment: c.OrderPaid(order=ORDER)
            if workflow is Workflow.HYBRID
            else c.PaymentCharged(payment_id="p", amount=ORDER.total, order=ORDER),
        }[command]
    return message_for(command, ORDER, (), "")


@pytest.mark.row(16)
def test_the_cap_is_exact(measured: Callable[..., None]) -> None:
    """Row 16: an envelope of exactly the cap is read, one byte more is not."""
    envelope = compose(
        c.PaymentDeclined(),
        source="test",
        order_id=clock.new_id(),
        workflow=Workflow.CHOREOGRAPHY,
        event_bus=EventBus.SNS,
    )

    def body(size: int) -> str:
        filler = envelope.model_copy(update={"data": {"x": ""}})
        return filler.model_copy(update={"data": {"x": "a" * (size - len(filler.encode()))}}).encode()

    assert len(body(MAX_BYTES)) == MAX_BYTES
    decode(body(MAX_BYTES))
    with pytest.raises(Undecodable, match="over the cap"):
        decode(body(MAX_BYTES + 1))
    measured(cap_bytes=MAX_BYTES)


@pytest.mark.parametrize("kind", each_kind())
@pytest.mark.row(16)
def test_the_largest_order_goes_through(world: World, kind: Kind, measured: Callable[..., None]) -> None:
    """Row 16: every field at its longest, in the characters with the most bytes; all messages stay under the cap."""
    wide = "\N{PILE OF POO}"
    address = {"name": wide * 200, "line1": wide * 200, "city": wide * 100, "postal_code": wide * 20, "country": "DE"}
    items = [{"sku": "LAMP-1", "quantity": 1}] * MAX_LINES
    order_id = world.place(
        items=items, shipping_address=address, customer_id=wide * 100, payment_method="x" * 64, workflow=kind[0],
        event_bus=kind[1],
    )  # fmt: skip
    sizes: list[int] = []
    for queue in world.broker.queues.values():
        put = queue.put
        queue.put = lambda body, put=put: (sizes.append(len(body)), put(body))[1]  # type: ignore[method-assign, misc]
    world.settle()
    for queue in world.broker.queues.values():
        del queue.put
    measured(largest_bytes=max(sizes))
    assert world.status(order_id) == "CANCELLED"  # no such card
    assert 0 < max(sizes) < MAX_BYTES
    check(world.urls)


@pytest.mark.row(16)
def test_an_order_that_is_too_large_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 16: if the limits of fields would not keep an order under the cap, POST does, to the byte."""
    order_id = world.place(workflow=Workflow.CHOREOGRAPHY)
    [(placed,)] = world.execute("order", "SELECT body FROM outbox WHERE order_id = %s", [order_id])
    size = len(placed)
    monkeypatch.setattr("services.order.placement.MAX_BYTES", size + HEADROOM)
    orders = [order_id, world.place(workflow=Workflow.CHOREOGRAPHY)]
    monkeypatch.setattr("services.order.placement.MAX_BYTES", size + HEADROOM - 1)
    with pytest.raises(Problem, match="413"):
        world.place(workflow=Workflow.CHOREOGRAPHY)
    world.recover()
    check(world.urls, acknowledged=orders)
