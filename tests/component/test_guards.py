"""FAULTS row 29: a bug, or a lock, in any stage of the pipeline, for one message in ten.

It is counted for its message, which is dead-lettered at five; the nine others of its batch are handled at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Final

import psycopg
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orderflow.contracts import Item, OrderAccepted, StockReserved, Workflow
from orderflow.database import holders
from orderflow.envelope import Envelope
from orderflow.messaging import consumer, handling, inbox, isolation, tracing
from orderflow.messaging.application import Incoming
from orderflow.providers.calls import ProviderApplication
from services.inventory import handlers, models
from tests.support.world import World

pytestmark = pytest.mark.row(29)


@pytest.fixture(autouse=True)
def _nothing_failed_yet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is given back stays away until it is redelivered; a delay may be none."""
    for name in world.services:
        world.execute(name, "DELETE FROM failures")
    monkeypatch.setattr(consumer, "_delay", lambda receive_count, soon=False: 1)


MESSAGES: Final = 10
BUG: Final = KeyError("a bug")
Patch = Callable[[pytest.MonkeyPatch, str], None]


def bring(world: World, service: str, workflow: Workflow, **changes: Any) -> list[str]:
    """Ten orders, each with a message that waits for `service`, and nothing else."""
    world.settle()
    orders = [world.place(workflow=workflow, **changes) for _ in range(MESSAGES)]
    for _ in range(20):
        for name in world.services:
            world.publish(name)
            if name != service:
                while world.deliver(name):
                    pass
        if len(world.broker.queues[service].waiting) >= MESSAGES:
            return orders
    raise AssertionError(f"nothing comes to {service}")


def raising(module: Any, name: str, picked: Callable[..., bool]) -> Patch:
    """`module.name` has a bug for what is `picked` by its arguments and the bad order's id."""

    def patch(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
        real = getattr(module, name)

        def buggy(*args: Any, **kwargs: Any) -> Any:
            if picked(bad, *args):
                raise BUG
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, buggy)

    return patch


def answering(message: Any) -> Patch:
    """Inventory's handler causes `message` for the bad order."""

    def patch(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
        real = handlers.Inventory.handle

        def buggy(self: Any, unit: Any, batch: Sequence[Incoming]) -> Any:
            replies = real(self, unit, batch)
            return [[message] if m.order_id == bad else r for m, r in zip(batch, replies, strict=True)]

        monkeypatch.setattr(handlers.Inventory, "handle", buggy)

    return patch


def in_batch(bad: str, _: Any, __: Any, batch: Sequence[Incoming]) -> bool:
    return any(m.order_id == bad for m in batch)


STAGES: Final[dict[str, tuple[str, Patch]]] = {
    "decode": ("inventory", raising(consumer, "decode", lambda bad, body: bad in body)),
    "message": ("inventory", raising(Envelope, "message", lambda bad, envelope: envelope.subject == bad)),
    "handle": ("inventory", raising(handlers.Inventory, "handle", in_batch)),
    "statement": ("inventory", raising(models, "add", lambda bad, _, rows: any(r.order_id == bad for r in rows))),
    "answer": ("inventory", raising(Incoming, "answer", lambda bad, incoming, *_: incoming.order_id == bad)),
    "unroutable": ("inventory", answering(OrderAccepted())),
    "too large": ("inventory", answering(StockReserved(items=(Item(sku="B" * 64, quantity=1),) * 3000))),
    "intent": ("payment", raising(ProviderApplication, "begin", in_batch)),
    "record": ("payment", raising(ProviderApplication, "handle", in_batch)),
}


def unroutable_under(workflow: Workflow, stage: str) -> bool:
    return stage != "unroutable" or workflow is Workflow.CHOREOGRAPHY


@pytest.mark.parametrize(("stage", "workflow"), [(s, w) for s in STAGES for w in Workflow if unroutable_under(w, s)])
def test_a_bug_is_one_messages_failure(
    world: World, monkeypatch: pytest.MonkeyPatch, stage: str, workflow: Workflow
) -> None:
    """Whatever stage has it: nine are handled at their first delivery, the tenth is dead-lettered at its fifth."""
    service, patch = STAGES[stage]
    orders = bring(world, service, workflow)
    bad = orders[3]
    queue = world.broker.queues[service]
    failures = sum(n for (n,) in world.execute(service, "SELECT count FROM failures"))
    with pytest.MonkeyPatch.context() as patched:
        patch(patched, bad)
        for delivery in range(1, 6):
            while world.deliver(service):
                pass
            counted = sum(n for (n,) in world.execute(service, "SELECT count FROM failures"))
            assert counted - failures == delivery, "each time"
            if delivery == 1:
                assert len(queue.in_flight) == 1, "the others are done"
                world.settle()
                assert {world.status(o) for o in orders if o != bad} == {"CONFIRMED"}
            queue.redeliver()
    [(parked, reason)] = queue.parked
    assert bad in parked.body
    assert "failed 5 times" in reason
    queue.parked.clear()
    world.execute(service, "DELETE FROM failures")
    queue.put(parked.body)
    world.recover()
    assert world.status(bad) in ("CONFIRMED", "CANCELLED")


def test_a_reaction_that_raises(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows nothing of the order but what is in its event."""
    good = bring(world, "inventory", Workflow.CHOREOGRAPHY)
    [bad] = [world.place(postal_code="10999")]
    world.publish("order")
    real = handlers.reactions.react

    def buggy(message: Any) -> Any:
        if getattr(message, "order", None) and message.order.address.postal_code == "10999":
            raise BUG
        return real(message)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(handlers.reactions, "react", buggy)
        for _ in range(5):
            while world.deliver("inventory"):
                pass
            world.broker.queues["inventory"].redeliver()
        world.settle()
    assert {world.status(o) for o in good} == {"CONFIRMED"}
    assert [reason for _, reason in world.parked() if "failed 5 times" in reason]
    world.broker.queues["inventory"].put(world.broker.queues["inventory"].parked.pop()[0].body)
    world.recover()
    assert world.status(bad) == "CONFIRMED"


def test_tracing_decides_nothing(world: World, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that fails, before the handling or after it, costs its span."""
    orders = bring(world, "inventory", Workflow.CHOREOGRAPHY)
    with pytest.MonkeyPatch.context() as patched:
        raising(tracing, "_about", lambda bad, e: e.subject == bad)(patched, orders[0])
        patched.setattr(handling, "metrics", SimpleNamespace())
        while world.deliver("inventory"):
            pass
        assert not world.broker.queues["inventory"].in_flight
    assert world.execute("inventory", "SELECT count(*) FROM failures") == [(0,)]
    world.settle()
    assert {world.status(o) for o in orders} == {"CONFIRMED"}


def test_a_lost_race_is_no_failure(world: World) -> None:
    """A twin of a message was first, in the middle of the batch: the message is known at once, and so done."""
    orders = bring(world, "inventory", Workflow.CHOREOGRAPHY)
    real, lost = inbox.claim, list[str]()

    def claim(connection: Any, service: str, outcomes: Sequence[tuple[str, str]]) -> None:
        if not lost:
            lost.append(outcomes[3][0])
            world.execute("inventory", "INSERT INTO inbox VALUES ('inventory', %s, '')", [lost[0]])
        real(connection, service, outcomes)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(inbox, "claim", claim)
        assert world.deliver("inventory") == MESSAGES
    assert lost
    assert not world.broker.queues["inventory"].in_flight
    assert world.execute("inventory", "SELECT count(*) FROM failures") == [(0,)]
    world.recover()
    assert {world.status(o) for o in orders} == {"CONFIRMED"}


# Rows that somebody holds.

ROWS: Final = {
    "stock": ("inventory", Workflow.CHOREOGRAPHY, "SELECT FROM stock WHERE sku = 'RARE-1' FOR UPDATE"),
    "order": ("order", Workflow.CHOREOGRAPHY, "SELECT FROM orders WHERE id = %s FOR UPDATE"),
    "order, commanded": ("order", Workflow.STEP_FUNCTIONS, "SELECT FROM orders WHERE id = %s FOR UPDATE"),
    "saga": ("orchestrator", Workflow.ORCHESTRATION, "SELECT FROM sagas WHERE order_id = %s FOR UPDATE"),
    "saga, hybrid": ("orchestrator", Workflow.HYBRID, "SELECT FROM sagas WHERE order_id = %s FOR UPDATE"),
    "payment": ("payment", Workflow.ORCHESTRATION, "SELECT FROM payments WHERE order_id = %s FOR UPDATE"),
    "shipment": ("shipping", Workflow.CHOREOGRAPHY, "SELECT FROM shipments WHERE order_id = %s FOR UPDATE"),
    "uncommitted": ("inventory", Workflow.HYBRID, "INSERT INTO reservations VALUES (%s, 'reserved')"),
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds a row is known sooner."""
    monkeypatch.setattr(holders, "HELD_AFTER", 0.1)


@pytest.mark.parametrize("held", ROWS)
def test_only_what_needs_a_held_row_waits(world: World, quick: None, held: str) -> None:
    """An operator's session, or a bulk restock: the others are handled, and the tenth once the row is free again."""
    service, workflow, statement = ROWS[held]
    if held == "stock":
        world.settle()
        orders = [world.place(sku="RARE-1" if i == 3 else "BOOK-1") for i in range(MESSAGES)]
        world.publish("order")
    else:
        orders = bring(world, service, workflow)
    if service == "orchestrator":  # on with their first answers, when there are sagas
        for name in ("orchestrator", "inventory"):
            world.deliver(name)
            world.publish(name)
    bad = orders[3]
    queue = world.broker.queues[service]
    if held in ("payment", "shipment"):
        table = {"payment": "payments", "shipment": "shipments"}[held]
        # Asked for before, by a process that died.
        world.execute(service, f"INSERT INTO {table} VALUES (%s, 'intended', 1, now())", [bad])
        world.execute(service, f"UPDATE {table} SET request = (SELECT request FROM {table} LIMIT 1)")
    with psycopg.connect(world.urls[service]) as session:
        session.execute(statement, [bad] if "%s" in statement else None)
        for _ in range(2):
            while world.deliver(service):
                pass
            assert len(queue.in_flight) == 1, "the others are done"
            [waiting] = queue.in_flight.values()
            assert bad in waiting.body
            assert world.execute(service, "SELECT count(*) FROM failures") == [(0,)], "it is no failure"
            queue.redeliver()
        session.rollback()
    while world.deliver(service):
        pass
    assert not queue.in_flight, "the row is free"
    if held not in ("payment", "shipment"):
        world.recover()
        assert {world.status(o) for o in orders} == {"CONFIRMED"}


def test_nobody_waits_twice_for_a_row_that_is_held(world: World, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of batches that follow, the messages that need it are put off without a wait, however many they are."""
    bring(world, "inventory", Workflow.CHOREOGRAPHY)
    while world.deliver("inventory"):
        pass
    waits: list[int] = []
    real = isolation.Isolation._in_line
    monkeypatch.setattr(
        isolation.Isolation, "_in_line",
        lambda self, handle, batch: (waits.append(len(batch)), real(self, handle, batch))[1],
    )  # fmt: skip
    with psycopg.connect(world.urls["inventory"]) as session:
        session.execute("SELECT FROM stock WHERE sku = 'RARE-1' FOR UPDATE")
        for round_ in range(4):
            orders = [world.place(sku="RARE-1" if i % 2 else "BOOK-1") for i in range(MESSAGES)]
            world.publish("order")
            assert world.deliver("inventory") == MESSAGES
            reserved = "SELECT count(*) FROM reservations WHERE order_id = ANY(%s::uuid[])"
            assert world.execute("inventory", reserved, [orders]) == [(MESSAGES // 2,)]
            assert sum(waits) <= MESSAGES // 2, f"round {round_}"
        session.rollback()
    world.broker.queues["inventory"].redeliver()
    world.settle()


@pytest.mark.parametrize("table", ["orders", "inbox"])
def test_a_lock_on_a_whole_table_counts_against_nobody(world: World, quick: None, table: str) -> None:
    """A migration, say. All wait, and go on after it."""
    orders = bring(world, "order", Workflow.CHOREOGRAPHY)
    with psycopg.connect(world.urls["order"]) as session:
        session.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")  # type: ignore[arg-type]
        assert world.deliver("order") == MESSAGES
        assert len(world.broker.queues["order"].in_flight) == MESSAGES
        session.rollback()
    assert world.execute("order", "SELECT count(*) FROM failures") == [(0,)]
    world.recover()
    assert {world.status(o) for o in orders} == {"CONFIRMED"}


def test_a_row_of_the_outbox_that_is_held_keeps_no_message(world: World) -> None:
    """What has been sent is deleted with the next batch; a batch does not wait for that."""
    orders = bring(world, "order", Workflow.CHOREOGRAPHY)
    outbox = world.services["order"].outbox
    assert outbox._sent, "something to delete"
    with psycopg.connect(world.urls["order"]) as session:
        session.execute("SELECT FROM outbox FOR UPDATE")
        assert world.deliver("order") == MESSAGES
        assert not world.broker.queues["order"].in_flight, "at the second try"
        outbox.flush()
        session.rollback()
    world.recover()
    assert {world.status(o) for o in orders} == {"CONFIRMED"}
    outbox.flush()
    assert world.execute("order", "SELECT count(*) FROM outbox") == [(0,)]


@pytest.mark.parametrize("error", [psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure])
def test_a_lost_conflict_is_tried_again_at_once(world: World, error: type[Exception]) -> None:
    """By who lost it, and it is no failure."""
    orders = bring(world, "inventory", Workflow.CHOREOGRAPHY)
    real, lost = models.take, list[int]()

    def take(*args: Any) -> None:
        if not lost:
            lost.append(1)
            raise error("another was faster")
        real(*args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "take", take)
        assert world.deliver("inventory") == MESSAGES
    assert lost
    assert not world.broker.queues["inventory"].in_flight
    world.settle()
    assert {world.status(o) for o in orders} == {"CONFIRMED"}


def test_requests_for_a_held_row_are_refused_quickly(world: World) -> None:
    """503, and nothing has happened; the same request passes once the row is free."""
    order_id = world.place()
    restock, cancel = "/stock/RARE-1/restock", f"/orders/{order_id}/cancel"
    asks: list[tuple[str, str, str, dict[str, Any]]] = [
        ("inventory", "SELECT FROM stock WHERE sku = 'RARE-1' FOR UPDATE", restock, {"quantity": 1}),
        ("order", f"SELECT FROM orders WHERE id = '{order_id}' FOR UPDATE", cancel, {}),
    ]
    for service, lock, path, body in asks:
        with psycopg.connect(world.urls[service]) as session:
            session.execute(lock)  # type: ignore[arg-type]
            refused = world.http(service).post(path, json=body)
            assert refused.status_code == 503
            assert refused.headers["Retry-After"]
            session.rollback()
        assert world.http(service).post(path, json=body).status_code in (200, 202)
