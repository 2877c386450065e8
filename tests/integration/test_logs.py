"""The logs of a running system: one order's history over all services, and no personal data."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orderflow.contracts import EventBus, Workflow
from orderflow.routing import SERVICES
from tests.support.bodies import order_body
from tests.support.system import KINDS, System, kind_id, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PRIVATE = ("Bartholomea Quist", "9 Nightingale Mews", "Llanfairpwll", "+44 20 7946 0958", "pm_card")
ADDRESS = {"name": PRIVATE[0], "line1": PRIVATE[1], "city": PRIVATE[2], "postal_code": "10115", "country": "GB"}
NEVER = (*PRIVATE, "tasktoken", "payment_method", "shipping_address", "specversion", "Bearer ", "password")
"""Texts that no line may contain: the orders' own data, tokens, and what only a raw body has."""

ASKS: tuple[dict[str, Any], ...] = (
    {},
    {"payment_method": "pm_card_timeout"},
    {"payment_method": "pm_card_declined"},
    {"sku": "SOLDOUT-1"},
    {"shipping_address": ADDRESS | {"postal_code": "00000"}},
)


def lines_of(system: System, order_id: str) -> list[dict[str, Any]]:
    """The lines of all services that name an order, in order of time."""
    found = [line for service in SERVICES for line in system.logged(service, order_id)]
    return sorted(found, key=lambda line: line["timestamp"])


@pytest.mark.parametrize("kind", KINDS, ids=kind_id)
def test_an_orders_lines_tell_its_story(system: System, kind: tuple[Workflow, EventBus]) -> None:
    """Each service that worked on the order logs it with order, message, trace and workflow, from acceptance to end."""
    order_id = system.place(kind)
    assert system.until_terminal(order_id) == ["CONFIRMED"]
    acted = {"order", "inventory", "payment", "shipping"}
    until(lambda: acted <= {line["service"] for line in lines_of(system, order_id)}, 30)
    lines = lines_of(system, order_id)
    trace_id = system.order(order_id)["trace_id"]
    assert lines[0]["event"] == "order accepted"
    for line in lines:
        assert line["order_id"] == order_id
        assert line["trace_id"] == trace_id, line
        assert line["workflow"] == kind[0].value, line
        assert len(line["message_id"]) == 36, line
        assert line["level"] in ("info", "warning")
    outcomes = {(line["service"], line.get("outcome")) for line in lines}
    assert {
        ("inventory", "StockReserved"),
        ("payment", "PaymentCharged"),
        ("shipping", "ShipmentScheduled"),
    } <= outcomes


def test_nothing_private_is_in_any_log(system: System) -> None:
    """For all outcomes in all workflows, for refused requests, and for unreadable messages."""
    cases = [(kind, ask) for kind in KINDS for ask in ASKS]
    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(lambda c: system.place(c[0], **{"shipping_address": ADDRESS, **c[1]}), cases))
    cancelled = [system.place(kind, shipping_address=ADDRESS, payment_method="pm_card_timeout") for kind in KINDS]
    for order_id in cancelled:
        assert system.cancel(order_id) in (202, 409)
    for wrong in ({"quantity": -1}, {"customer_id": 7}, {"payment_method": ["pm_card_visa"]}, {"card": "pm_card_visa"}):
        assert system.post(order_body(shipping_address=ADDRESS, **wrong)).status_code == 422
    system.http.post(system.url("order", "/orders"), content=json.dumps({"a": PRIVATE})[:-1])
    # One is undecodable, and one has invalid data: both are dead-lettered, and a line says why.
    for body in (json.dumps({"name": PRIVATE}), '{"specversion": "1.0", "tasktoken": "' + PRIVATE[0] + '"'):
        system.send("inventory", body)
    parked = until(lambda: system.logged("inventory", "message dead-lettered"), 60)
    assert parked[-1]["reason"]
    system.until_terminal(*ids, *cancelled)
    system.take_dead_letters("inventory", 2)
    for part in (*SERVICES, "localstack", "postgres"):
        text = system.runtime.logs(part)
        if part in SERVICES:
            assert '"event": "handled"' in text or part == "orchestrator"
        found = [secret for secret in NEVER if secret in text]
        assert not found, (part, [line for line in text.splitlines() if found[0] in line][:3])
