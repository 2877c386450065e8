"""FAULTS row 30: a provider is unreachable for long. Calls that wait for it are in the database, and delay nobody else.

In one process (see `tests.support.world`), where the hour passes on virtual clocks: 50 orders per second are scaled to
one per twenty seconds, after twelve at once, and SQS's 120,000 messages in flight to none at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from orderflow.contracts import EventBus, Workflow
from orderflow.providers.calls import ProviderApplication
from simulator import Faults, Simulated
from tests.support.load import sizes
from tests.support.oracle import check
from tests.support.system import KINDS, kind_id
from tests.support.world import World, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.row(30)]

Kind = tuple[Workflow, EventBus]
TABLES = {"payment": "payments", "shipping": "shipments"}


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database, provider_timeout=0.5, undo_attempts=4) as made:
        yield made


def caller(world: World, service: str) -> ProviderApplication:
    application = world.services[service].application
    assert isinstance(application, ProviderApplication)
    return application


def set_outage(world: World, service: str, *, outage: bool) -> None:
    provider = caller(world, service).provider if service == "payment" else caller(world, service).carrier  # type: ignore[attr-defined]
    assert isinstance(provider, Simulated)
    provider.faults.set(Faults(outage=outage))


def in_queues(world: World) -> int:
    """Messages that are visible or in flight anywhere."""
    return sum(len(queue.waiting) + len(queue.in_flight) for queue in world.broker.queues.values())


def waiting(world: World, service: str) -> int:
    return int(world.execute(service, f"SELECT count(*) FROM {TABLES[service]}_waiting")[0][0])


def place(world: World, kind: Kind, count: int = 1) -> list[str]:
    return [world.place(workflow=kind[0], event_bus=kind[1]) for _ in range(count)]


def statuses(world: World, orders: list[str]) -> Counter[str]:
    return Counter(world.status(order_id) for order_id in orders)


@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
@pytest.mark.parametrize("service", list(TABLES))
@pytest.mark.parametrize("minutes", sizes(4, 60))
def test_a_provider_is_unreachable_for_long(
    world: World, minutes: int, service: str, kind: Kind, measured: Callable[..., None]
) -> None:
    """No message waits in a queue, the provider is hardly called, and processes restart meanwhile. Afterwards every
    order ends and nobody pays twice; orders that need an operator end by a retry."""
    before = in_queues(world)
    set_outage(world, service, outage=True)
    asked = Counter(caller(world, service).counts)
    orders: list[str] = []
    most_queued = most_waiting = 0
    for minute in range(minutes):
        for seconds in (20, 20, 20):
            orders += place(world, kind, 1 if orders else 12)
            world.settle()
            most_queued = max(most_queued, in_queues(world) - before)
            most_waiting = max(most_waiting, waiting(world, service))
            world.pass_time(seconds)
            world.passed += seconds
            world.settle()
        if minute == minutes // 2:
            asked.subtract(caller(world, service).counts)
            world.restart(service)  # cold: waiting calls are only in its database
            set_outage(world, service, outage=True)
    made = Counter(caller(world, service).counts)
    made.subtract(asked)
    assert not statuses(world, orders)["CONFIRMED"], "the provider is unreachable"
    assert most_queued == 0
    assert made["withheld"] > 0, "the breaker opened"
    # Three for each of ten orders until the circuit opens, also after the start of a process; and probes.
    assert made["attempts"] <= 2 * 10 * 3 + minutes * 60 / 5
    assert most_waiting >= 3

    set_outage(world, service, outage=False)
    fresh = place(world, kind, 3)
    world.recover()
    attention = statuses(world, orders)["NEEDS_ATTENTION"]
    if attention:
        asks = {"by": "ada", "why": "the provider answers again", "limit": 1000}
        answer = world.http("order").post("/orders/retry", json=asks)
        assert (answer.status_code, answer.json["retried"]) == (202, attention)
    world.recover()
    ended = statuses(world, orders)
    measured(orders=len(orders), attempts=made["attempts"], withheld=made["withheld"], waiting=most_waiting,
             attention=attention, **{status.lower(): n for status, n in ended.items()})  # fmt: skip
    assert ended.keys() <= {"CONFIRMED", "CANCELLED"}
    assert statuses(world, fresh) == {"CONFIRMED": 3}
    assert waiting(world, service) == 0
    assert world.parked() == []
    check(world.urls, acknowledged=orders + fresh)


@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
def test_who_needs_another_provider_is_not_held_up(world: World, kind: Kind) -> None:
    """The payment provider is unreachable, and an order waits for it: parcels are still sent, and stock is released."""
    paid = place(world, kind, 2)
    set_outage(world, "shipping", outage=True)
    world.settle()  # charged; now the carrier is called
    assert waiting(world, "shipping") == 2
    set_outage(world, "payment", outage=True)
    stuck = place(world, kind, 12)
    world.settle()
    assert waiting(world, "payment") == 12
    set_outage(world, "shipping", outage=False)
    world.end_backoffs()
    world.settle()
    assert statuses(world, paid) == {"CONFIRMED": 2}
    none_left = world.place(sku="SOLDOUT-1", workflow=kind[0], event_bus=kind[1])
    world.settle()
    assert world.status(none_left) == "CANCELLED"
    assert in_queues(world) == 0
    set_outage(world, "payment", outage=False)
    world.recover()
    assert statuses(world, stuck).keys() <= {"CONFIRMED", "CANCELLED"}
    check(world.urls, acknowledged=[*paid, *stuck, none_left])


@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
def test_answers_come_back_just_in_time(world: World, kind: Kind) -> None:
    """An outage shorter than the deadline cancels no order: waiting calls are retried, and their orders continue."""
    set_outage(world, "payment", outage=True)
    orders = place(world, kind, 12)
    world.settle()
    for _ in range(2):
        world.pass_time(12)  # the owners resend
        world.settle()
    assert waiting(world, "payment") == 12
    assert in_queues(world) == 0
    set_outage(world, "payment", outage=False)
    world.end_backoffs()
    world.settle()
    assert statuses(world, orders) == {"CONFIRMED": 12}
    attempts = world.execute(
        "providers", "SELECT count(*) FROM ledger WHERE kind = 'charge' AND order_id = ANY(%s::uuid[])", [orders]
    )
    assert attempts == [(12,)]
    check(world.urls, acknowledged=orders)
