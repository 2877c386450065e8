"""FAULTS row 28: rows of a newer release, after a rollback, in every table that is swept.

They are put aside and counted; the others don't notice; after the upgrade they are handled."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

import pytest

from orderflow.contracts import Workflow
from orderflow.database.unreadable import ASIDE, unreadable
from tests.support.world import World

pytestmark = pytest.mark.row(28)

AHEAD: Final = 200
"""More than any look takes at once, and due before the good ones."""

GOOD: Final = 10


@dataclass(frozen=True)
class Swept:
    """A table, and how this code's rows become a newer release's: `column` gets `newer` in place of a value."""

    service: str
    table: str
    key: str
    due: str
    column: str
    newer: str
    workflow: Workflow

    def __str__(self) -> str:
        return f"{self.table}-{self.column}-{self.workflow}"


def _swept() -> list[Swept]:
    found = []
    for workflow in (Workflow.CHOREOGRAPHY, Workflow.ORCHESTRATION, Workflow.HYBRID, Workflow.STEP_FUNCTIONS):
        found += [
            Swept("order", "orders", "id", "next_at", "workflow", "express", workflow),
            Swept("order", "orders", "id", "next_at", "event_bus", "kafka", workflow),
            Swept("order", "orders", "id", "next_at", "snapshot", '{"parcels": []}', workflow),
        ]
    for workflow in (Workflow.ORCHESTRATION, Workflow.HYBRID):
        found += [
            Swept("orchestrator", "sagas", "order_id", "next_at", column, newer, workflow)
            for column, newer in (
                ("workflow", "express"), ("event_bus", "kafka"), ("snapshot", "{}"), ("state", "SUSPENDED"),
                ("open_type", "CheckFraud"),
            )
        ]  # fmt: skip
    for newer in ('{"of": "another envelope"}', "no JSON"):
        found.append(
            Swept("orchestrator", "executions", "order_id", "next_at", "placed", newer, Workflow.STEP_FUNCTIONS)
        )
    for column, newer in (("channel", "pigeon"), ("body", '{"type": "orderflow.FraudChecked.v1"}')):
        found.append(Swept("order", "outbox", "entry", "leased_until", column, newer, Workflow.CHOREOGRAPHY))
    return found


def _begin(world: World, swept: Swept) -> list[str]:
    """Good orders that are at rest, each with a row in the table; nothing of them is on its way."""
    _forget(world)
    for queue in world.broker.queues.values():
        queue.waiting.clear()
    orders = [world.place(workflow=swept.workflow) for _ in range(GOOD)]
    if swept.table == "sagas":
        world.publish("order")
        world.deliver("orchestrator")
    if swept.table == "executions":
        for order_id in orders:
            [(placed,)] = world.execute("order", "SELECT body FROM outbox WHERE order_id = %s", [order_id])
            world.execute(
                "orchestrator", "INSERT INTO executions (order_id, placed) VALUES (%s, %s)", [order_id, placed]
            )
    if swept.table == "outbox":
        world.services["order"].publisher._lanes.clear()  # as if its process had died
    else:
        _forget(world)
    return orders


def _forget(world: World) -> None:
    """Nothing waits to be sent any more."""
    for name, service in world.services.items():
        service.publisher._lanes.clear()
        world.execute(name, "DELETE FROM outbox")


def _put_ahead(world: World, swept: Swept) -> list[str]:
    """Rows of a newer release, made of a good one's; their keys are smaller than all others."""
    keys = [f"00000000-0000-7000-8000-{i:012x}" for i in range(AHEAD)]
    columns = [
        name
        for (name,) in world.execute(
            swept.service,
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s ORDER BY ordinal_position",
            [swept.table],
        )
    ]
    changed = {swept.key: "k", swept.column: "%(newer)s"}
    values = ", ".join(changed.get(name, f"good.{name}") for name in columns)
    world.execute(
        swept.service,
        f"INSERT INTO {swept.table} ({', '.join(columns)}) SELECT {values}"
        f" FROM unnest(%(keys)s::uuid[]) AS k, (SELECT * FROM {swept.table} LIMIT 1) AS good",
        {"keys": keys, "newer": swept.newer},
    )
    return keys


def _all_are_due(world: World, swept: Swept) -> None:
    world.execute(swept.service, f"UPDATE {swept.table} SET {swept.due} = now() - interval '30 s'")


def _look(world: World, swept: Swept) -> None:
    """What a process does every second or so."""
    service = world.services[swept.service]
    if swept.table == "outbox":
        service.publisher.relay()
        while service.publisher.pull(inf):
            pass
    else:
        turns = AHEAD + GOOD if swept.table == "executions" else 1  # each is a call of AWS, so few at a turn
        for _ in range(turns):
            for _ in range(20):
                if not service.sweeper.sweep(0):  # type: ignore[union-attr]
                    break


@pytest.mark.parametrize("swept", _swept(), ids=str)
def test_rows_of_a_newer_release_keep_no_others(world: World, swept: Swept) -> None:
    """200 of them, due before 10 good ones, also when they come back; and they are handled after the upgrade."""
    world.execute(swept.service, f"DELETE FROM {swept.table}")
    orders = _begin(world, swept)
    [(before,)] = world.execute(swept.service, f"SELECT min({swept.column}) FROM {swept.table}")
    keys = _put_ahead(world, swept)
    counted = unreadable[swept.table,]
    for round_ in (1, 2):
        _all_are_due(world, swept)
        _look(world, swept)
        assert unreadable[swept.table,] - counted == AHEAD * round_, "each is counted once a look"
        rested = world.execute(
            swept.service,
            f"SELECT count(*), bool_and({swept.due} BETWEEN now() + make_interval(secs => %s)"
            f" AND now() + make_interval(secs => %s)) FROM {swept.table} WHERE {swept.key} = ANY(%s::uuid[])",
            [ASIDE / 2 - 60, ASIDE, keys],
        )
        assert rested == [(AHEAD, True)]
        assert _looked_after(world, swept, orders), f"the good ones, round {round_}"
    world.execute(
        swept.service,
        f"UPDATE {swept.table} SET {swept.column} = %s, {swept.due} = now() - interval '30 s'"
        f" WHERE {swept.key} = ANY(%s::uuid[])",
        [before, keys],
    )
    _look(world, swept)
    assert unreadable[swept.table,] - counted == AHEAD * 2, "this release knows them"


def _looked_after(world: World, swept: Swept, orders: list[str]) -> bool:
    """Whether all good ones were, since the last time that this was asked."""
    if swept.table == "outbox":
        lanes = world.services["order"].publisher._lanes
        found = {entry.parcel.envelope.subject for lane in lanes.values() for _, entry in lane._waiting}
        lanes.clear()
        return set(orders) <= found
    if swept.table == "executions":
        restarts = world.execute(
            "orchestrator", "SELECT min(restarts) FROM executions WHERE order_id = ANY(%s::uuid[])", [orders]
        )
        world.broker.machine.lose()
        world.execute("orchestrator", "UPDATE executions SET restarts = 0 WHERE restarts > 0")
        return bool(restarts[0][0] == 1)
    found = world.execute(swept.service, "SELECT DISTINCT order_id::text FROM outbox")
    _forget(world)
    return set(orders) <= {order_id for (order_id,) in found}


NEWER: Final = (("workflow", "express"), ("event_bus", "kafka"), ("status", "PACKED"))


@pytest.mark.parametrize("workflow", list(Workflow))
@pytest.mark.parametrize(("column", "newer"), NEWER)
def test_an_order_of_a_newer_release_is_shown(world: World, workflow: Workflow, column: str, newer: str) -> None:
    """As far as it can be: in lists among the others, alone, and with its timeline. What would change it waits."""
    order_id = world.place(workflow=workflow)
    world.execute("order", f"UPDATE orders SET {column} = %s WHERE id = %s", [newer, order_id])
    api = world.http("order")
    assert order_id in {item["id"] for item in api.get("/orders").json["items"]}
    assert api.get(f"/orders/{order_id}").json[column] == newer
    timeline = api.get(f"/orders/{order_id}/timeline")
    assert timeline.status_code == 200
    assert [entry["type"] for entry in timeline.json["entries"]] == ["OrderPlaced"]
    if column == "status":
        return  # derived from the facts: nobody reads it from there
    for path, body in (("cancel", {}), ("retry", {"by": "ada", "why": "it waits"})):
        assert api.post(f"/orders/{order_id}/{path}", json=body).status_code == 503


@pytest.mark.parametrize(("column", "newer"), [("workflow", "express"), ("state", "SUSPENDED"), ("open_type", "Pack")])
def test_a_saga_of_a_newer_release_is_shown(world: World, column: str, newer: str) -> None:
    """In lists among the others, and alone."""
    order_id = world.place(workflow=Workflow.ORCHESTRATION)
    world.settle()
    values = {"open_type": "ReserveStock", "workflow": "orchestration", "state": "RUNNING"} | {column: newer}
    world.execute(
        "orchestrator",
        "UPDATE sagas SET active = true, open_type = %(open_type)s, workflow = %(workflow)s, state = %(state)s"
        " WHERE order_id = %(order_id)s",
        values | {"order_id": order_id},
    )
    api = world.http("orchestrator")
    assert order_id in {item["order_id"] for item in api.get("/sagas").json["items"]}
    shown = api.get(f"/sagas/{order_id}").json
    assert newer in (shown.get(column), shown["waiting_for"][0]["step"])
    assert shown["log"]


def test_a_message_about_a_row_of_a_newer_release_waits(world: World) -> None:
    """It is no failure of the message, and those beside it are handled."""
    world.settle()
    orders = [world.place() for _ in range(10)]
    world.publish("order")
    world.deliver("inventory")
    world.publish("inventory")
    world.execute("order", "UPDATE orders SET event_bus = 'kafka' WHERE id = %s", [orders[3]])
    assert world.deliver("order") == 10
    reserved = "SELECT id::text FROM orders WHERE 'StockReserved' = ANY(facts) AND id = ANY(%s::uuid[])"
    assert {i for (i,) in world.execute("order", reserved, [orders])} == set(orders) - {orders[3]}
    assert world.execute("order", "SELECT count(*) FROM failures") == [(0,)]
    world.execute("order", "UPDATE orders SET event_bus = 'sns' WHERE id = %s", [orders[3]])
    world.broker.queues["order"].redeliver()
    world.settle()
    assert world.status(orders[3]) == "CONFIRMED"
