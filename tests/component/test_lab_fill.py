"""Orders that the lab makes up are orders: the oracle can't tell them from real ones, nor can the API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.bench.fill import fill, stored
from lab.lines import LabProblem
from orderflow.contracts import EventBus, Workflow
from tests.support.oracle import check
from tests.support.world import World, world_on

OUTCOMES = ({}, {"sku": "SOLDOUT-1"}, {"payment_method": "pm_card_declined"}, {"postal_code": "00000"})


class Databases:
    """A system of which only the databases are asked for."""

    folder = Path()

    def __init__(self, world: World) -> None:
        self.database = world.urls.__getitem__

    def url(self, part: str) -> str:
        raise NotImplementedError

    def pids(self) -> dict[str, int]:
        raise NotImplementedError


@pytest.fixture
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


def test_copies_of_orders_add_up_like_real_ones(world: World) -> None:
    """Every outcome in every workflow, ten times over: money, shipments and stock agree, in all databases."""
    for workflow in Workflow:
        for outcome in OUTCOMES:
            world.place(**outcome, workflow=workflow, event_bus=EventBus.SNS)
    world.settle()
    system = Databases(world)
    real = stored(system)
    before = {name: world.execute("order", f"SELECT count(*) FROM {name}")[0][0] for name in ("order_log", "inbox")}
    fill(system, real * 2)
    said = fill(system, real * 10)
    assert stored(system) == real * 10
    assert f"{real * 10:,} orders" in said
    for name, count in before.items():
        assert world.execute("order", f"SELECT count(*) FROM {name}")[0][0] == count * 10
    check(world.urls)


def test_a_copy_is_one_order_in_every_service(world: World) -> None:
    """Found by its id over HTTP: its timeline, its saga, its reservation, payment and shipment."""
    order_id = world.place(workflow="orchestration", event_bus="sns")
    world.settle()
    fill(Databases(world), 5)
    listed = world.http("order").get("/orders").json["items"]
    assert [item["status"] for item in listed] == ["CONFIRMED"] * 5
    assert listed[0]["id"] == order_id, "the copies are older"
    copy = listed[3]["id"]
    entries = world.http("order").get(f"/orders/{copy}/timeline").json["entries"]
    originals = world.http("order").get(f"/orders/{order_id}/timeline").json["entries"]
    assert [e["type"] for e in entries] == [e["type"] for e in originals]
    assert entries[1]["causation_id"] == entries[0]["message_id"] or entries[0]["message_id"]
    for service, path in (
        ("orchestrator", f"/sagas/{copy}"), ("inventory", f"/reservations/{copy}"),
        ("payment", f"/payments/{copy}"), ("shipping", f"/shipments/{copy}"),
    ):  # fmt: skip
        assert world.http(service).get(path).status_code == 200, service
    [entry] = world.http("payment").get(f"/simulator/ledger?order_id={copy}").json["items"]
    assert entry["idempotency_key"] == f"{copy}:charge"


def test_nothing_is_copied_while_an_order_is_open(world: World) -> None:
    """A copy of half an order would never end; and of nothing, nothing can be made."""
    with pytest.raises(LabProblem, match="0 orders are stored"):
        fill(Databases(world), 10)
    world.place()
    with pytest.raises(LabProblem, match="none that is open"):
        fill(Databases(world), 10)
