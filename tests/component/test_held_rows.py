"""FAULTS row 29: a lock that somebody else holds, in any stage of the pipeline.

Only what needs the row waits, nobody waits twice, and it counts as nobody's failure.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
import pytest

from orderflow.contracts import Workflow
from orderflow.database import holders
from orderflow.messaging import isolation
from services.inventory import models
from tests.support.guards import MESSAGES, bring
from tests.support.world import World

pytestmark = [pytest.mark.row(29), pytest.mark.usefixtures("nothing_failed_yet")]


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
