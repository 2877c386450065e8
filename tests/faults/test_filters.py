"""FAULTS row 33: the stack is changed while orders run. SNS may filter by the former policies for 15 minutes:
https://docs.aws.amazon.com/sns/latest/dg/sns-subscription-filter-policies.html"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from orderflow import metrics, routing
from orderflow.contracts import EventBus, Message, Workflow, name_of
from orderflow.routing import SERVICES, TABLE, Channel, heard_by
from tests.support.load import each_kind
from tests.support.machine import deployed_filters
from tests.support.oracle import check
from tests.support.world import World, world_on

pytestmark = pytest.mark.row(33)

EVENTS = sorted({m for table in TABLE.values() for m, r in table.items() if r.channel is Channel.BUS}, key=name_of)
PUBLISHING = [workflow for workflow, table in TABLE.items() if any(r.channel is Channel.BUS for r in table.values())]
KINDS = [kind for kind in each_kind() if kind.values[0][0] in PUBLISHING]
kinds = pytest.mark.parametrize("kind", KINDS)
UNPUBLISHED = routing.Route(Channel.NONE)
OUTCOMES: tuple[Mapping[str, str], ...] = (
    {},
    {"sku": "SOLDOUT-1"},
    {"payment_method": "pm_card_declined"},
    {"postal_code": "00000"},
)


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


@pytest.fixture
def before(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Mapping[Workflow, object]], None]]:
    """Gives the buses the filters of an earlier release, by its routing table; everything else is current."""

    def filter_by(table: Mapping[Workflow, object], ahead: Mapping[str, object] | None = None) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(routing, "TABLE", table)
            patch.setattr(routing, "ADMITTED_AHEAD", ahead or {})
            # A service that listens for the first time already has its subscription: a deploy waits for the stack.
            world.broker.filters = today | deployed_filters()

    today = deployed_filters()
    yield filter_by
    world.broker.filters = deployed_filters()


def without(events: set[type[Message]]) -> dict[Workflow, dict[type[Message], routing.Route]]:
    return {w: {m: cell for m, cell in table.items() if m not in events} for w, table in TABLE.items()}


def run(world: World, kind: tuple[Workflow, EventBus]) -> None:
    """Every outcome, and a cancellation: all orders end, and nothing has to be resent."""
    resent = sum(metrics.resent.values())
    workflow, bus = kind
    orders = [world.place(workflow=workflow, event_bus=bus, **outcome) for outcome in (*OUTCOMES, {})]
    world.cancel(orders[-1])
    world.settle()
    assert {world.status(order) for order in orders} <= {"CONFIRMED", "CANCELLED"}
    assert world.status(orders[0]) == "CONFIRMED"
    assert sum(metrics.resent.values()) == resent, "something was dropped, and arrived only by a resend"
    assert not world.parked()
    check(world.urls)


@kinds
@pytest.mark.parametrize("new", EVENTS, ids=name_of)
def test_a_new_event_passes_the_filters_of_before(
    world: World, before: Callable[..., None], new: type[Message], kind: tuple[Workflow, EventBus]
) -> None:
    """Each event in turn is the one that the deployed filters don't know. Only if it is the first event of a workflow
    that a service receives must the previous release have admitted it."""
    if TABLE[kind[0]].get(new, UNPUBLISHED).channel is not Channel.BUS:
        return
    first = {
        service: frozenset({(w, new) for w, names in heard_by(service).items() if names == (name_of(new),)})
        for service in SERVICES
    }
    before(without({new}), first)
    run(world, kind)


@kinds
def test_filters_that_know_no_event_at_all_pass_everything(
    world: World, before: Callable[..., None], kind: tuple[Workflow, EventBus]
) -> None:
    """Every service gets every event; each reacts only to those that the routing table gives it."""
    before({})
    world.broker.filters = {service: ({}, {"source": ["orderflow"]}) for service in deployed_filters()}
    run(world, kind)


@kinds
@pytest.mark.parametrize("new", PUBLISHING, ids=lambda workflow: workflow.value)
def test_a_new_workflow_passes_the_filters_of_before(
    world: World, before: Callable[..., None], new: Workflow, kind: tuple[Workflow, EventBus]
) -> None:
    """Its events also reach services that they don't concern, which acknowledge them without handling."""
    before({w: {} if w is new else table for w, table in TABLE.items()})
    run(world, kind)


@kinds
def test_filters_that_are_newer_than_the_services(
    world: World, before: Callable[..., None], kind: tuple[Workflow, EventBus]
) -> None:
    """After a rollback of the services, the stack may know an event or a workflow that they don't: this is harmless."""
    cells = {message: cell for table in TABLE.values() for message, cell in table.items()}
    extra = {m: routing.Route(Channel.BUS, SERVICES[:4]) for m in cells if cells[m].channel is not Channel.BUS}
    before({w: {**extra, **table} for w, table in TABLE.items()})
    run(world, kind)


def test_an_event_that_a_service_begins_to_hear_is_admitted_a_release_ahead(
    world: World, before: Callable[..., None]
) -> None:
    """The filters of services that don't listen to an existing event exclude it by name. It is therefore admitted in
    one release, and listened to in the next."""
    charged = next(m for m in EVENTS if name_of(m) == "PaymentCharged")
    cell = TABLE[Workflow.CHOREOGRAPHY][charged]
    deaf = {charged: routing.Route(Channel.BUS, tuple(s for s in cell.listeners if s != "shipping"))}
    table = {**TABLE, Workflow.CHOREOGRAPHY: {**TABLE[Workflow.CHOREOGRAPHY], **deaf}}
    before(table, {"shipping": frozenset({(Workflow.CHOREOGRAPHY, charged)})})
    run(world, (Workflow.CHOREOGRAPHY, EventBus.SNS))
