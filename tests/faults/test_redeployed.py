"""FAULTS rows 6 and 18: what a new, empty broker is told, and when; a start with nothing but what databases hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from orderflow.contracts import EventBus, Workflow
from orderflow.routing import SERVICES
from tests.support.load import Load
from tests.support.proxy import Calls
from tests.support.system import KINDS, System, overridden, replaced, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("faults-system")]

PUBLISHES = {
    "Publish", "PublishBatch", "PutEvents", "SendMessage", "SendMessageBatch", "StartExecution", "SendTaskSuccess",
}  # fmt: skip
BACK = 120.0


@pytest.fixture
def calls(system: System) -> Iterator[dict[str, Calls]]:
    """What each service of the running system asks of the broker, seen by a proxy between them."""
    found = {service: Calls() for service in SERVICES}
    with ExitStack() as stack:
        urls = {s: stack.enter_context(made.between(system.url("localstack"))) for s, made in found.items()}
        stack.enter_context(overridden(system, {service: {"AWS_ENDPOINT_URL": url} for service, url in urls.items()}))
        yield found


@pytest.mark.row(6)
def test_nothing_is_published_into_the_gap(
    system: System,
    calls: dict[str, Calls],
    seed: int,
    kinds: tuple[tuple[Workflow, EventBus], ...],
    measured: Callable[..., None],
) -> None:
    """A broker that is back without its stack accepts events and drops them. Every process asks for the marker, which
    the stack creates last, before it publishes anything."""
    with Load(system, kinds, rate=8, total=80, seed=seed) as load:
        load.until_taken(24)
        killed_at = time.monotonic()
        killed = system.runtime.kill("localstack")
        replaced(system, "localstack", killed)
        system.until_ready()
        back = time.monotonic()
        taken = load.finish()
    system.until_terminal(*taken, seconds=BACK)
    measured(away_s=round(back - killed_at, 1), terminal_s=round(time.monotonic() - back, 1))
    refused = 0
    for service, made in calls.items():
        answered = [call for call in made.since(killed_at) if call.status is not None]
        asked = [call for call in answered if call.operation == "GetQueueUrl"]
        seen = min(call.at for call in asked if call.status == 200)
        refused += sum(call.at < seen for call in asked)
        early = [call for call in answered if call.operation in PUBLISHES and call.at < seen]
        assert not early, (service, early)
        assert any(call.operation in PUBLISHES for call in answered), f"{service} published afterwards"
    measured(asked_in_the_gap=refused)
    assert refused > 0, "the broker answered, and its stack was not whole"
    system.check(acknowledged=taken)
    system.no_dead_letters()


@pytest.mark.row(6, 18)
def test_a_cold_start_with_no_traffic(system: System, measured: Callable[..., None]) -> None:
    """All is stopped with orders under way, and the broker has forgotten everything. With no new order to move
    anything, every order goes on within ten seconds of the start."""
    system.runtime.stop("payment")
    orders = [system.place(kind) for kind in KINDS * 3]
    until(lambda: reserved(system, orders) == len(orders))
    system.runtime.down()
    system.runtime.up()
    began = time.monotonic()
    until(lambda: charged(system, orders) == len(orders), 60, lambda: [system.story(i) for i in orders])
    took = time.monotonic() - began
    measured(resumed_s=round(took, 1))
    assert set(system.until_terminal(*orders, seconds=BACK)) == {"CONFIRMED"}
    assert took <= 10
    system.check(acknowledged=orders)


def reserved(system: System, orders: list[str]) -> int:
    found = system.sql("inventory", "SELECT count(*) FROM reservations WHERE order_id = ANY(%s::uuid[])", orders)
    return int(found[0][0])


def charged(system: System, orders: list[str]) -> int:
    found = system.sql("payment", "SELECT count(*) FROM payments WHERE order_id = ANY(%s::uuid[])", orders)
    return int(found[0][0])
