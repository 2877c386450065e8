"""Forged messages in the real queues: they are dead-lettered with their reason, at once and without effect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orderflow import clock
from orderflow.contracts import (
    ConfirmOrder,
    EventBus,
    Message,
    RefundPayment,
    ReleaseStock,
    StockReserved,
    Workflow,
)
from orderflow.envelope import MAX_BYTES, compose
from orderflow.routing import SERVICES
from tests.support.system import System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("system")]


def envelope(message: Message, order_id: str | None = None, **changes: Any) -> str:
    """A forged message, encoded; `changes` to its fields, where None removes one."""
    made = compose(
        message, source="forger", order_id=order_id or clock.new_id(), workflow=Workflow.ORCHESTRATION,
        event_bus=EventBus.SNS,
    )  # fmt: skip
    fields = json.loads(made.encode()) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None})


GARBLED = {
    "garbage": ("\x7fELF, or whatever this is", "no envelope"),
    "a list": ("[]", "no envelope"),
    "an empty object": ("{}", "no envelope"),
    "deep nesting": ('{"data":' + "[" * 10_000 + "]" * 10_000 + "}", "no envelope"),
    "NaN": (envelope(ReleaseStock()).replace('"data": {}', '"data": NaN'), "no envelope"),
    "no id": (envelope(ReleaseStock(), id=None), "id"),
    "an id that is none": (envelope(ReleaseStock(), id="1; DROP TABLE orders"), "id"),
    "a subject that is none": (envelope(ReleaseStock(), subject="../etc"), "subject"),
    "unknown workflow": (envelope(ReleaseStock(), workflow="telepathy"), "workflow"),
    "unknown bus": (envelope(ReleaseStock(), eventbus="pigeon"), "eventbus"),
    "unknown type": (envelope(ReleaseStock(), type="orderflow.SellTheShop.v1"), "SellTheShop"),
    "foreign type": (envelope(ReleaseStock(), type="com.example.thing"), "com.example.thing"),
    "version zero": (envelope(ReleaseStock(), type="orderflow.ReleaseStock.v0"), "ReleaseStock.v0"),
    "data of another type": (envelope(ReleaseStock(), type="orderflow.ChargePayment.v1"), "amount"),
    "negative amount": (
        envelope(ReleaseStock(), type="orderflow.ChargePayment.v1",
                 data={"amount": {"amount": -1, "currency": "EUR"}, "payment_method": "x"}), "amount"),
    "quantity zero": (
        envelope(ReleaseStock(), type="orderflow.ReserveStock.v1", data={"items": [{"sku": "BOOK-1", "quantity": 0}]}),
        "quantity"),
    "text with NUL": (
        envelope(ReleaseStock(), type="orderflow.StockRejected.v1", data={"reason": "a\0b"}), "reason"),
    "oversized": (envelope(ReleaseStock(), data={"filling": "x" * MAX_BYTES}), "cap"),
}  # fmt: skip
"""Bodies, and a word of the reason for which they are dead-lettered."""


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.row(9, 15)
def test_garbled_messages_are_dead_lettered_and_hold_nothing_up(system: System, service: str) -> None:
    """More than a batch of them, right before an order: each is in the DLQ with its reason, and the order completes."""
    effects = effects_of(system)
    system.send(service, *(body for body, _ in GARBLED.values()))
    workflows = [(Workflow.CHOREOGRAPHY, EventBus.SNS), (Workflow.ORCHESTRATION, EventBus.SNS)]
    healthy = [system.place(kind) for kind in workflows]
    assert system.until_terminal(*healthy, seconds=60) == ["CONFIRMED"] * 2
    found = system.take_dead_letters(service, len(GARBLED))
    reasons = {body: reason for body, reason, _ in found}
    assert set(reasons) == {body for body, _ in GARBLED.values()}
    for case, (body, word) in GARBLED.items():
        assert word in reasons[body], f"{case}: {reasons[body]}"
    assert {receives for _, _, receives in found} == {1}, "dead-lettered at the first receive"
    system.check(acknowledged=healthy)
    assert effects_of(system) == effects, "nothing but the healthy orders left a trace"


def effects_of(system: System) -> dict[str, int]:
    """The rows that belong to no order."""
    known = [i for (i,) in system.sql("order", "SELECT id::text FROM orders")]
    counted = {"inventory": "reservations", "payment": "payments", "shipping": "shipments", "orchestrator": "sagas"}
    counts = {
        table: system.sql(service, f"SELECT count(*) FROM {table} WHERE NOT order_id = ANY(%s::uuid[])", known)[0][0]
        for service, table in counted.items()
    }
    ledger = system.sql("providers", "SELECT count(*) FROM ledger WHERE NOT order_id = ANY(%s::uuid[])", known)
    return counts | {"ledger": ledger[0][0]}


@pytest.mark.parametrize(
    ("service", "message"), [("order", ConfirmOrder()), ("orchestrator", StockReserved(items=()))], ids=SERVICES[::4]
)
def test_a_message_about_an_unknown_order_is_dead_lettered(system: System, service: str, message: Message) -> None:
    """Services that know all orders dead-letter it; it has no effect."""
    effects = effects_of(system)
    body = envelope(message)
    system.send(service, body)
    [(parked, reason, _)] = system.take_dead_letters(service, 1)
    assert parked == body
    assert json.loads(body)["subject"] in reason
    assert effects_of(system) == effects


def test_an_event_without_what_its_reaction_needs_is_dead_lettered(system: System) -> None:
    """Choreography's StockReserved must carry its order."""
    system.send("payment", envelope(StockReserved(items=()), workflow="choreography"))
    [(_, reason, _)] = system.take_dead_letters("payment", 1)
    assert "without its order" in reason


def test_what_means_nothing_to_a_service_is_acknowledged(system: System) -> None:
    """A known type without a reaction is no error: it is acknowledged, not dead-lettered."""
    effects = effects_of(system)
    system.send("shipping", envelope(RefundPayment()), envelope(ReleaseStock()))
    until(lambda: not system.depth("shipping"))
    assert not system.depth("shipping-dlq")
    assert effects_of(system) == effects


@pytest.mark.row(23)
def test_a_newer_version_waits(system: System) -> None:
    """It waits for a consumer that knows it: it is neither dead-lettered nor lost, and nothing behind it waits."""
    newer = [envelope(ReleaseStock(), type="orderflow.ReleaseStock.v2") for _ in range(11)]
    system.send("inventory", *newer)
    until(lambda: len(system.logged("inventory", "ReleaseStock.v2 is newer")) >= 22, what=lambda: "received twice")
    order_id = system.place((Workflow.ORCHESTRATION, EventBus.SNS))
    assert system.until_terminal(order_id, seconds=60) == ["CONFIRMED"]
    until(lambda: system.depth("inventory") == 11, what=lambda: system.depth("inventory"))  # the order's own is deleted
    assert not system.depth("inventory-dlq")
    system.aws("sqs").purge_queue(QueueUrl=system.queue("inventory"))
    until(lambda: not system.depth("inventory"))
