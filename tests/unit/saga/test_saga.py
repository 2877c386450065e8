"""What is owed, from the facts alone; and the routing table's own consistency."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orderflow import contracts as c
from orderflow.contracts import Workflow, name_of
from orderflow.routing import MACHINE, SERVICES, TABLE, Channel, event_pattern, filter_policy, heard_by, hears, route
from orderflow.saga import DEADLINE, PAYMENT, SHIPMENT, STEP_UNDONE, STEPS, STOCK, fact_of, owed, still_owed
from tests.support.machine import admits

ALL_FACTS = sorted(
    {name_of(m) for step in STEPS for m in (step.success, step.refusal, step.undone)}
    | {DEADLINE, STEP_UNDONE, "OrderCancellationRequested", "ConfirmationRejected", "OrderConfirmed", "OrderCancelled"}
)
facts = st.sets(st.sampled_from(ALL_FACTS))


@pytest.mark.parametrize(
    ("known", "debts"),
    [
        ({"StockReserved", "PaymentCharged"}, None),
        ({"StockRejected"}, ()),
        ({"StockReserved", "PaymentDeclined"}, (STOCK,)),
        ({"ShipmentRejected"}, (STOCK, PAYMENT)),
        ({"StockRejected", "PaymentCharged"}, (PAYMENT,)),
        ({DEADLINE}, STEPS),
        ({STEP_UNDONE}, STEPS),
        ({"StockRejected", "OrderCancellationRequested"}, STEPS),
        ({"ConfirmationRejected"}, STEPS),
    ],
)
def test_what_is_owed(known: set[str], debts: object) -> None:
    """A refusal owes what came before it, or is known to be done; a deadline, a cancellation or an undone step all."""
    assert owed(known) == debts


@given(facts, facts)
def test_the_debt_only_grows(some: set[str], more: set[str]) -> None:
    """Whatever else becomes known, nothing is forgiven."""
    assert set(owed(some) or ()) <= set(owed(some | more) or ())


@given(facts)
def test_what_was_compensated_is_owed_no_more(known: set[str]) -> None:
    """Once every undo is confirmed, nothing is left."""
    assert still_owed(known | {name_of(step.undone) for step in STEPS}) == ()


def test_a_refusal_of_a_compensated_step_is_a_fact_of_its_own() -> None:
    assert fact_of(c.PaymentDeclined(reason=c.UNDONE)) == STEP_UNDONE
    assert fact_of(c.PaymentDeclined(reason="no funds")) == "PaymentDeclined"
    assert fact_of(c.ConfirmationRejected(reason=c.UNDONE)) == "ConfirmationRejected"


@pytest.mark.parametrize(("workflow", "step"), list(itertools.product(TABLE, STEPS)))
def test_every_outcome_finds_a_coordinator(workflow: Workflow, step: object) -> None:
    """In each workflow every outcome has a route with somebody at its end."""
    for message in (step.success, step.refusal, step.undone):  # type: ignore[attr-defined]
        assert route(workflow, message).listeners


@pytest.mark.parametrize("workflow", list(TABLE))
def test_routes_name_known_services(workflow: Workflow) -> None:
    for cell in TABLE[workflow].values():
        assert set(cell.listeners) <= {*SERVICES, MACHINE}
        assert (MACHINE in cell.listeners) == (cell.channel in (Channel.START, Channel.TOKEN))
        if cell.channel is Channel.QUEUE:
            assert len(cell.listeners) == 1


@pytest.mark.parametrize("service", SERVICES)
def test_a_filter_admits_what_the_service_hears_and_nothing_else(service: str) -> None:
    """Of all events that are published: over each bus, and by the consumer's own look. What is new is let through."""
    if not heard_by(service):
        return
    policy, pattern = filter_policy(service), event_pattern(service)

    def passes(workflow: str, kind: str) -> bool:
        told = {"type": kind, "workflow": workflow}
        by_topic = admits(policy, told)
        assert admits(pattern, {"source": "orderflow", "detail-type": kind, "detail": told}) == by_topic
        return by_topic

    events = [(w, m) for w, table in TABLE.items() for m, cell in table.items() if cell.channel is Channel.BUS]
    heard = {(w, name) for w, names in heard_by(service).items() for name in names}
    assert {(w, name_of(m)) for w, m in events if passes(w.value, c.type_of(m))} == heard
    assert {(w, name_of(m)) for w, m in events if hears(service, w, m)} == heard
    assert passes("express", "orderflow.OrderWeighed.v1"), "a policy takes a quarter of an hour to change"
    assert all(passes(w.value, "orderflow.OrderWeighed.v1") for w in heard_by(service))


@pytest.mark.parametrize(("workflow", "step"), list(itertools.product(TABLE, STEPS)))
def test_each_step_has_one_driver(workflow: Workflow, step: Any) -> None:
    """Nobody gets a step's command from a coordinator and by its own reaction as well."""
    before = STEPS[: STEPS.index(step)]
    triggers = {name_of(before[-1].success if before else c.OrderPlaced)} | (
        {"OrderPaid"} if step is SHIPMENT else set()
    )
    commanded = step.command in TABLE[workflow]
    assert commanded + len(triggers & set(heard_by(step.service).get(workflow, ()))) == 1


@pytest.mark.parametrize("step", STEPS)
def test_in_choreography_whoever_must_undo_hears_of_it(step: Any) -> None:
    """Of a refusal all that came before it, of a cancellation everybody; they are asked by no one else."""
    heard = {s: heard_by(s.service)[Workflow.CHOREOGRAPHY] for s in STEPS}
    assert all(name_of(step.refusal) in heard[s] for s in owed({name_of(step.refusal)}) or ())
    assert "OrderCancellationRequested" in heard[step]


def test_an_unknown_route_names_the_message_and_the_workflow() -> None:
    with pytest.raises(LookupError, match="OrderPaid has no route under choreography"):
        route(Workflow.CHOREOGRAPHY, c.OrderPaid)
