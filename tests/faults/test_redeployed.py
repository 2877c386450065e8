"""FAULTS rows 6 and 18: what is sent to a new, empty broker, and when; a start with only what the databases hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psutil
import pytest

from orderflow.contracts import EventBus, Workflow
from orderflow.routing import SERVICES
from tests.support import parts
from tests.support.aims import within
from tests.support.load import Load
from tests.support.processes import replaced
from tests.support.proxy import Calls
from tests.support.system import KINDS, System, overridden, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("faults-system")]

PUBLISHES = {
    "Publish", "PublishBatch", "PutEvents", "SendMessage", "SendMessageBatch", "StartExecution", "SendTaskSuccess",
}  # fmt: skip
BACK = 120.0


@pytest.fixture
def calls(system: System) -> Iterator[dict[str, Calls]]:
    """The calls of each service of the running system to the broker, seen by a proxy between them."""
    found = {service: Calls() for service in SERVICES}
    with ExitStack() as stack:
        urls = {s: stack.enter_context(made.between(system.url("localstack"))) for s, made in found.items()}
        stack.enter_context(overridden(system, {service: {"AWS_ENDPOINT_URL": url} for service, url in urls.items()}))
        yield found


@pytest.mark.row(6)
@pytest.mark.extra
def test_nothing_is_published_into_the_gap(
    system: System,
    calls: dict[str, Calls],
    seed: int,
    kinds: tuple[tuple[Workflow, EventBus], ...],
    measured: Callable[..., None],
) -> None:
    """A broker that comes back without its stack accepts events and drops them. Before it publishes anything, every
    process looks for the marker, which the stack creates last."""
    with Load(system, kinds, rate=8, total=80, seed=seed) as load:
        load.until_taken(24)
        killed = parts.kill(system.runtime, "localstack")
        until(lambda: not psutil.pid_exists(killed))
        killed_at = time.monotonic()  # calls after that were answered by the new broker
        replaced(system, "localstack", killed)
        system.until_ready()
        back = time.monotonic()
        taken = load.finish()
    system.until_terminal(*taken, seconds=within(BACK) - (time.monotonic() - back))
    measured(away_s=round(back - killed_at, 1), terminal_s=round(time.monotonic() - back, 1))
    refused = 0
    for service, made in calls.items():
        answered = [call for call in made.since(killed_at) if call.status is not None]
        asked = [call for call in answered if call.operation == "GetQueueUrl"]
        seen = min(call.at for call in asked if call.status == 200)
        refused += sum(call.at < seen for call in asked)
        early = [call for call in answered if call.operation in PUBLISHES and call.at < seen]
        assert not early, (service, early)
        takes_part = service != "orchestrator" or any(workflow is not Workflow.CHOREOGRAPHY for workflow, _ in kinds)
        assert any(call.operation in PUBLISHES for call in answered) == takes_part, service
    measured(asked_in_the_gap=refused)
    assert refused > 0, "the broker answered, and its stack was not complete"
    system.check(acknowledged=taken)
    system.no_dead_letters()


@pytest.mark.row(6, 18)
def test_a_cold_start_with_no_traffic(system: System, seed: int, measured: Callable[..., None]) -> None:
    """`down` with orders of every kind in flight, then `up`: the broker has forgotten everything, and there are no new
    orders. Every order continues within ten seconds, and ends correctly."""
    parts.stop(system.runtime, "payment")
    with Load(system, KINDS, rate=20, total=40, seed=seed) as load:
        taken = load.finish()
    until(lambda: len(of_orders(system, "inventory", "reservations", taken)) == len(taken))
    waiting = of_orders(system, "inventory", "reservations", taken, "AND state = 'reserved'")
    assert len(waiting) > 20, "they are caught in their middle"
    system.runtime.down()
    system.runtime.up()
    began = time.monotonic()
    until(lambda: of_orders(system, "payment", "payments", taken) == waiting, 60)
    took = time.monotonic() - began
    system.until_terminal(*taken, seconds=within(BACK) - took)
    measured(resumed_s=round(took, 1), terminal_s=round(time.monotonic() - began, 1))
    assert took <= within(10)
    system.check(acknowledged=taken)
    system.no_dead_letters()


def of_orders(system: System, service: str, table: str, orders: list[str], more: str = "") -> set[str]:
    """The orders that have a row in a service's table."""
    statement = f"SELECT order_id::text FROM {table} WHERE order_id = ANY(%s::uuid[]) {more}"
    return {order_id for (order_id,) in system.sql(service, statement, orders)}
