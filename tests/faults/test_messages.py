"""FAULTS rows 4, 5 and 16, in one process: repeats, disorder, undo before command, and the largest messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from orderflow import clock
from orderflow import contracts as c
from orderflow.bus.memory import MemoryQueue
from orderflow.contracts import EventBus, Workflow
from orderflow.envelope import MAX_BYTES, compose, decode
from orderflow.errors import Problem, Undecodable
from orderflow.saga import STEPS
from services.order.schemas import MAX_LINES
from tests.support.oracle import check
from tests.support.world import BUILD, IN_MEMORY, World, request

OUTCOMES = {
    "success": ({}, "CONFIRMED"),
    "sold out": ({"sku": "SOLDOUT-1"}, "CANCELLED"),
    "declined": ({"payment_method": "pm_card_declined"}, "CANCELLED"),
    "undeliverable": ({"postal_code": "00000"}, "CANCELLED"),
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    made = World({name: new_database(name) for name in BUILD} | {"providers": new_database(None)})
    yield made
    made.close()


@pytest.mark.parametrize("outcome", list(OUTCOMES))
@pytest.mark.parametrize("workflow", IN_MEMORY)
def test_five_times_and_once_more_later(
    world: World, workflow: Workflow, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 4: every message comes five times at once, and again after completion: the state is that of a clean run."""
    changes, expected = OUTCOMES[outcome]
    sent: list[tuple[MemoryQueue, str]] = []
    put = MemoryQueue.put

    def five_times(queue: MemoryQueue, body: str) -> None:
        sent.append((queue, body))
        for _ in range(5):
            put(queue, body)

    clean = world.place(**changes, workflow=workflow)
    world.settle()
    with monkeypatch.context() as patch:
        patch.setattr(MemoryQueue, "put", five_times)
        repeated = world.place(**changes, workflow=workflow)
        world.settle()
    assert sent
    first = snapshot(world, repeated)
    for queue, body in sent:
        put(queue, body)
    world.settle()
    assert world.status(repeated) == expected
    assert snapshot(world, repeated) == first == snapshot(world, clean)
    check(world.urls)
    assert world.parked() == []


def snapshot(world: World, order_id: str) -> dict[str, object]:
    """What all services hold of an order, without ids and times."""
    one = [order_id]
    return {
        "order": world.execute("order", "SELECT status, facts, reason FROM orders WHERE id = %s", one),
        "saga": world.execute("orchestrator", "SELECT state, facts, reason FROM sagas WHERE order_id = %s", one),
        "stock": world.execute("inventory", "SELECT state, skus FROM reservations WHERE order_id = %s", one),
        "payment": world.execute("payment", "SELECT state, reason FROM payments WHERE order_id = %s", one),
        "shipment": world.execute("shipping", "SELECT state, reason FROM shipments WHERE order_id = %s", one),
        "ledger": world.execute("providers", "SELECT kind, amount FROM ledger WHERE order_id = %s ORDER BY kind", one),
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("workflow", IN_MEMORY)
def test_shuffled_and_late(world: World, workflow: Workflow, seed: int) -> None:
    """Row 5: messages come in any order and late, some orders are cancelled meanwhile."""
    chance = random.Random(seed)
    orders = [world.place(**dict(chance.choice(list(OUTCOMES.values()))[0]), workflow=workflow) for _ in range(12)]
    for _ in range(60):
        name = chance.choice(sorted(BUILD))
        queue = world.broker.queues[name]
        late = [queue.waiting.popleft() for _ in range(len(queue.waiting) // 2)]
        chance.shuffle(late)
        queue.waiting.extend(late)
        world.publish(name)
        world.deliver(name)
        if chance.random() < 0.05:
            world.cancel(chance.choice(orders))
    world.settle()
    check(world.urls, acknowledged=orders)
    assert world.parked() == []


@pytest.mark.parametrize("step", STEPS, ids=lambda s: s.name)
def test_undo_before_command(world: World, step: object) -> None:
    """Row 5: an undo that overtakes its command keeps it from ever happening; 100 times."""
    service, before = step.service, len(world.execute("providers", "SELECT 1 FROM ledger"))  # type: ignore[attr-defined]
    snapshot = request()
    command = {
        "stock": lambda: c.ReserveStock(items=(c.Item(sku="BOOK-1", quantity=1),)),
        "payment": lambda: c.ChargePayment(amount=c.Money(amount=1, currency="EUR"), payment_method="pm_card_visa"),
        "shipment": lambda: c.ScheduleShipment(
            items=(c.Item(sku="BOOK-1", quantity=1),), address=c.Address(**snapshot.shipping_address.model_dump())
        ),
    }[step.name]  # type: ignore[attr-defined]
    ids = [clock.new_id() for _ in range(100)]
    for message in (step.undo, command):  # type: ignore[attr-defined]
        for order_id in ids:
            envelope = compose(
                message(), source="test", order_id=order_id, workflow=Workflow.ORCHESTRATION, event_bus=EventBus.SNS
            )
            world.broker.queues[service].put(envelope.encode())
        while world.deliver(service):
            pass
    world.publish(service)
    answers = [decode(d.body) for d in world.broker.queues["orchestrator"].waiting]
    world.broker.queues["orchestrator"].waiting.clear()
    refusals = [e for e in answers if e.name == step.refusal.__name__]  # type: ignore[attr-defined]
    assert len(refusals) == 100
    assert {e.data["reason"] for e in refusals} == {c.UNDONE}
    assert len(world.execute("providers", "SELECT 1 FROM ledger")) == before
    world.settle()
    check(world.urls)


def test_the_cap_is_exact() -> None:
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


@pytest.mark.parametrize("workflow", IN_MEMORY)
def test_the_largest_order_goes_through(world: World, workflow: Workflow) -> None:
    """Row 16: every field at its longest, in characters that take most bytes; all its messages stay under the cap."""
    wide = "\N{PILE OF POO}"
    address = {"name": wide * 200, "line1": wide * 200, "city": wide * 100, "postal_code": wide * 20, "country": "DE"}
    items = [{"sku": "LAMP-1", "quantity": 1}] * MAX_LINES
    order_id = world.place(
        items=items, shipping_address=address, customer_id=wide * 100, payment_method="x" * 64, workflow=workflow
    )
    sizes: list[int] = []
    for queue in world.broker.queues.values():
        put = queue.put
        queue.put = lambda body, put=put: (sizes.append(len(body)), put(body))[1]  # type: ignore[method-assign, misc]
    world.settle()
    for queue in world.broker.queues.values():
        del queue.put
    assert world.status(order_id) == "CANCELLED"  # no such card
    assert 0 < max(sizes) < MAX_BYTES
    check(world.urls)


def test_an_order_that_is_too_large_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 16: where limits of fields would not keep it under the cap, POST does."""
    monkeypatch.setattr("services.order.placing.MAX_BYTES", 4096 + 300)
    with pytest.raises(Problem, match="413"):
        world.place(workflow=Workflow.CHOREOGRAPHY)
