"""Every workflow, bus and outcome in containers, judged by what anybody can see over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from orderflow.contracts import EventBus, Workflow
from services.inventory.models import START
from tests.support.containers import ContainerSystem
from tests.support.system import KINDS, kind_id

Kind = tuple[Workflow, EventBus]


@dataclass(frozen=True)
class Outcome:
    """What is asked for, and what must come of it."""

    status: str
    charges: tuple[str, ...]
    shipments: tuple[str, ...]
    request: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


OUTCOMES = {
    "success": Outcome("CONFIRMED", ("charge",), ("shipment",)),
    "sold-out": Outcome("CANCELLED", (), (), {"sku": "SOLDOUT-1", "quantity": 1}, "stock"),
    "declined": Outcome("CANCELLED", (), (), {"payment_method": "pm_card_declined"}, "declined"),
    "undeliverable": Outcome("CANCELLED", ("charge", "refund"), (), {"postal_code": "00000"}, "undeliverable"),
}


reserved_before: dict[str, int] = {}
"""By the orders of other tests."""


@pytest.fixture(scope="module")
def orders(system: ContainerSystem) -> dict[tuple[Kind, str], dict[str, Any]]:
    """All of them at once, side by side; each when it has ended."""
    reserved_before.update({sku: reserved for sku, (_, reserved) in system.stock().items()})
    ids = {(kind, name): system.place(kind, **dict(o.request)) for kind in KINDS for name, o in OUTCOMES.items()}
    system.until_terminal(*ids.values())
    system.check()
    return {which: system.order(order_id) for which, order_id in ids.items()}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
def test_an_order_ends_as_it_must(
    system: ContainerSystem, orders: dict[tuple[Kind, str], dict[str, Any]], kind: Kind, outcome: str
) -> None:
    """Its status and reason, the providers' own ledgers, and its reservation agree."""
    order, expected = orders[kind, outcome], OUTCOMES[outcome]
    assert (order["workflow"], order["event_bus"]) == (kind[0].value, kind[1].value)
    assert order["status"] == expected.status
    assert expected.reason in (order["reason"] or "")
    charges = system.ledger_entries("payment", order["id"])
    assert tuple(entry["kind"] for entry in charges) == expected.charges
    assert {entry["amount"]["amount"] for entry in charges} <= {order["total"]["amount"]}
    assert tuple(entry["kind"] for entry in system.ledger_entries("shipping", order["id"])) == expected.shipments


def test_stock_is_conserved(system: ContainerSystem, orders: dict[tuple[Kind, str], dict[str, Any]]) -> None:
    """What is gone from the shelves is what confirmed orders hold."""
    confirmed = sum(order["status"] == "CONFIRMED" for order in orders.values())
    stock = system.stock()
    assert all(available + reserved == START[sku] for sku, (available, reserved) in stock.items())
    assert stock["BOOK-1"][1] == reserved_before["BOOK-1"] + 2 * confirmed
    assert stock["SOLDOUT-1"] == (0, 0)


def test_every_order_is_one_trace_in_jaeger(
    system: ContainerSystem, orders: dict[tuple[Kind, str], dict[str, Any]]
) -> None:
    """Spans of every service that took part arrive, under the trace id that the API gave."""
    order = orders[(Workflow.ORCHESTRATION, EventBus.SNS), "success"]
    system.get("jaeger", "/api/services")
    found = system.get("jaeger", f"/api/traces/{order['trace_id']}")["data"][0]
    services = {process["serviceName"] for process in found["processes"].values()}
    assert {"order", "orchestrator", "inventory", "payment", "shipping"} <= services
