"""A database's clock was ahead for hours, and is set right: no order is forgotten for as long, nothing is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from orderflow import clock
from orderflow.contracts import EventBus, Workflow
from orderflow.idempotency import Key, Steps
from tests.support.load import each_kind
from tests.support.oracle import check
from tests.support.world import BUILD, World, world_on
from tests.support.world_clocks import UNSENT

Kind = tuple[Workflow, EventBus]
HOURS = 5

DUE = {"next_at", "look_at", "leased_until", "until"}
NOTED = {"reported_at", "heard_at", "resumed_at", "asked_at", "answered_at"}
SEEN = {"progress_at", "updated_at", "lease_until", "empty_from", "received_at", "oldest", "blocked_until"}
"""Columns with a time that decides something."""
LOOKED_AFTER = {
    "orders": "open AND NOT attention",
    "sagas": "active AND NOT attention",
    "executions": "state = 'watched'",
}
TABLES = """
SELECT table_name, array_agg(column_name::text) FROM information_schema.columns JOIN pg_class ON relname = table_name
WHERE table_schema = 'public' AND column_name = ANY(%s) AND NOT relispartition GROUP BY 1
"""


@pytest.fixture(scope="module")
def _world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


@pytest.fixture
def world(_world: World) -> World:
    """One in which nothing is under way."""
    _world.settle()
    return _world


def columns(world: World, service: str, names: set[str]) -> dict[str, list[str]]:
    return dict(world.execute(service, TABLES, [list(names)]))


def set_back(world: World) -> None:
    """All that was noted was noted by a clock that was ahead."""
    for service in BUILD:
        for table, found in columns(world, service, DUE | NOTED | SEEN).items():
            later = ", ".join(f"{name} = {name} + interval '{HOURS} h'" for name in found)
            world.execute(service, f"UPDATE {table} SET {later}")


def ahead(world: World, names: set[str], seconds: float) -> set[str]:
    """Where something lies ahead by more than that, of what is looked after."""
    found = set()
    for service in BUILD:
        for table, those in columns(world, service, names).items():
            only = LOOKED_AFTER.get(table, "true")
            for name in those:
                limit = f"{name} > now() + make_interval(secs => %s)"
                if world.execute(service, f"SELECT 1 FROM {table} WHERE {limit} AND {only} LIMIT 1", [seconds]):
                    found.add(f"{table}.{name}")
    return found


def set_right(world: World) -> int:
    return sum(service.set_right() for service in world.services.values())


def lose(world: World) -> None:
    """What is in the queues is lost."""
    for queue in world.broker.queues.values():
        queue.waiting.clear()


def overdue(world: World) -> float:
    [found] = [gauge.value for gauge in world.services["order"].gauges() if gauge.name == "orders_overdue"]
    return found


def look(world: World) -> None:
    """Every owner looks after what is due by the clock of its database."""
    for name in ("order", "orchestrator"):
        world.sweep(name)
    world.settle()


@pytest.mark.parametrize("kind", each_kind())
def test_no_order_is_forgotten(world: World, kind: Kind) -> None:
    """Its message was lost; its owner doesn't look for hours, and then does. Meanwhile it is shown as stuck."""
    orders = [world.place(workflow=kind[0], event_bus=kind[1]) for _ in range(4)]
    for name in world.services:
        world.publish(name)
        world.services[name].outbox.flush()
    lose(world)
    set_back(world)
    look(world)
    assert {world.status(order_id) for order_id in orders} == {"PLACED"}
    shown = world.http("order").get("/orders?stuck=true&limit=100").json["items"]
    assert {order["id"] for order in shown} >= set(orders)
    assert overdue(world) >= len(orders), "what the doctor asks for"
    assert set_right(world) >= len(orders)
    shown = world.http("order").get("/orders?stuck=true&limit=100").json["items"]
    assert not {order["id"] for order in shown} & set(orders)
    look(world)
    world.pass_time(11)  # a state machine's execution is looked after by its guardian, once the order has reminded
    world.settle()
    assert {world.status(order_id) for order_id in orders} == {"CONFIRMED"}
    check(world.urls, acknowledged=orders)


@pytest.mark.parametrize("kind", each_kind())
def test_nothing_lies_ahead_any_more(world: World, kind: Kind) -> None:
    """In no table of any service, at whatever stage its orders are, and without a second time."""
    placed = [world.place(workflow=kind[0], event_bus=kind[1]) for _ in range(8)]
    for step in range(6):
        for name in list(world.services)[step % 2 :: 2]:
            world.publish(name)
            world.deliver(name)
        for name in ("order", "orchestrator"):
            world.services[name].receivers.report()  # type: ignore[union-attr]
            world.services[name].receivers.look()  # type: ignore[union-attr]
            world.services[name].receivers.give_back({placed[step]: 30.0})  # type: ignore[union-attr]
    set_back(world)
    assert {"orders.next_at", "orders.look_at", "receivers.reported_at", "given_back.until"} <= ahead(
        world, DUE | NOTED, 3 * 3600
    )
    assert set_right(world) > 0
    longest = world.services["order"].settings.longest_wait + 60
    assert ahead(world, DUE, longest) == set()
    assert ahead(world, NOTED, 60) == set()
    assert set_right(world) == 0
    world.recover()
    assert {world.status(order_id) for order_id in placed} <= {"CONFIRMED", "CANCELLED"}
    check(world.urls, acknowledged=placed)


@pytest.mark.parametrize("service", ["order", "inventory", "payment", "orchestrator"])
def test_what_waits_in_an_outbox_is_sent(world: World, service: str) -> None:
    """Its process died while it held the lease of each."""
    kind = (
        (Workflow.ORCHESTRATION, EventBus.SNS) if service == "orchestrator" else (Workflow.CHOREOGRAPHY, EventBus.SNS)
    )
    order_id = world.place(workflow=kind[0], event_bus=kind[1])
    for _ in range(20):
        if world.execute(service, UNSENT):
            break
        for name in world.services:
            if name != service:
                world.publish(name)
            world.deliver(name)
    assert world.execute(service, UNSENT)
    world.restart(service)
    set_back(world)
    world.services[service].publisher.relay()
    world.publish(service)
    assert world.execute(service, UNSENT), "nobody takes it"
    set_right(world)
    world.services[service].publisher.relay()
    world.settle()
    assert world.execute(service, UNSENT) == []
    assert world.status(order_id) == "CONFIRMED"


@pytest.mark.parametrize(("service", "table"), [("payment", "payments"), ("shipping", "shipments")])
def test_a_lease_of_another_time_holds_nothing(world: World, service: str, table: str) -> None:
    """Its process died after it had noted what it was about to do."""
    order_id = world.place(workflow=Workflow.ORCHESTRATION, event_bus=EventBus.SNS)
    refuse = f"""
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a bug'; END $$;
    CREATE TRIGGER refuse BEFORE UPDATE ON {table} FOR EACH ROW WHEN (NEW.state = 'done') EXECUTE FUNCTION refuse()
    """
    world.execute(service, refuse)
    world.settle()
    world.execute(service, f"DROP TRIGGER refuse ON {table}; DROP FUNCTION refuse")
    [(state, leased)] = world.execute(
        service, f"SELECT state, lease_until > now() FROM {table} WHERE order_id = %s", [order_id]
    )
    assert (state, leased) == ("intended", True)
    set_back(world)
    set_right(world)
    world.broker.queues[service].redeliver()
    world.settle()
    assert world.status(order_id) == "CONFIRMED"
    check(world.urls, acknowledged=[order_id])


def test_a_key_of_another_time_is_taken_over(world: World) -> None:
    """Its request was abandoned long ago, in truth."""
    database = world.services["order"].database
    key = Key(b"scope", clock.new_id(), b"f")
    with database.transaction() as connection:
        assert Steps(key).begin(connection)
    with database.transaction() as connection:
        assert not Steps(key).begin(connection)
    world.execute("order", "UPDATE idempotency SET leased_until = leased_until + interval '5 h'")
    with database.transaction() as connection:
        assert Steps(key).begin(connection)
