"""Every workflow and outcome on the memory bus and real databases; each ends as promised, seen by the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from orderflow.contracts import EventBus, Workflow
from tests.support.oracle import check
from tests.support.world import World, world_on

OUTCOMES = {
    "success": ({}, "CONFIRMED"),
    "several lines": ({"items": [{"sku": "BOOK-1", "quantity": 1}, {"sku": "MUG-1", "quantity": 3}]}, "CONFIRMED"),
    "sold out": ({"sku": "SOLDOUT-1"}, "CANCELLED"),
    "declined": ({"payment_method": "pm_card_declined"}, "CANCELLED"),
    "undeliverable": ({"postal_code": "00000"}, "CANCELLED"),
}


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


@pytest.mark.parametrize("outcome", list(OUTCOMES))
@pytest.mark.parametrize("workflow", list(Workflow))
def test_an_order_ends_as_it_should(world: World, workflow: Workflow, outcome: str) -> None:
    """Its status says what became of it, and money, goods and stock agree with that."""
    changes, expected = OUTCOMES[outcome]
    order_id = world.place(**changes, workflow=workflow, event_bus=EventBus.SNS)
    world.settle()
    assert world.status(order_id) == expected
    check(world.urls)
    assert world.parked() == []


@pytest.mark.parametrize("workflow", list(Workflow))
def test_a_cancelled_order_gives_everything_back(world: World, workflow: Workflow) -> None:
    """The customer cancels as soon as the order is placed; 202, and 202 again."""
    order_id = world.place(workflow=workflow)
    assert world.cancel(order_id) == 202
    assert world.cancel(order_id) == 202
    world.settle()
    assert world.status(order_id) == "CANCELLED"
    check(world.urls)


@pytest.mark.parametrize("workflow", list(Workflow))
def test_a_confirmed_order_stays_confirmed(world: World, workflow: Workflow) -> None:
    order_id = world.place(workflow=workflow)
    world.settle()
    assert world.cancel(order_id) == 409
    assert world.status(order_id) == "CONFIRMED"


@pytest.mark.parametrize("workflow", list(Workflow))
def test_the_timeline_tells_the_whole_story(world: World, workflow: Workflow) -> None:
    """From placed to confirmed, by the order's own log and its saga's."""
    order_id = world.place(workflow=workflow)
    world.settle()
    timeline = world.http("order").get(f"/orders/{order_id}/timeline").json
    types = [entry["type"] for entry in timeline["entries"]]
    assert types[0] == "OrderPlaced"
    assert "OrderConfirmed" in types
    assert timeline["waiting_for"] is None
