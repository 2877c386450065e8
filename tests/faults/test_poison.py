"""FAULTS row 9: poison messages at the head of every queue, and mixed in, don't affect healthy orders."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from statistics import quantiles

import pytest

from orderflow import clock
from orderflow.contracts import EventBus, Item, ReserveStock, Workflow
from orderflow.envelope import compose
from orderflow.routing import SERVICES
from tests.support.system import FAULTS, KINDS, System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("faults-system"), pytest.mark.row(9)]

VISIBILITY = float(FAULTS["VISIBILITY"])


def poison(number: int) -> str:
    """Undecodable or of an unknown type, in turn."""
    if number % 2:
        return f"no envelope, number {number}"
    made = compose(
        ReserveStock(items=(Item(sku="BOOK-1", quantity=1),)), source="forger", order_id=clock.new_id(),
        workflow=Workflow.ORCHESTRATION, event_bus=EventBus.SNS,
    )  # fmt: skip
    return json.dumps(json.loads(made.encode()) | {"type": f"orderflow.Unknown.v{number + 1}"})


def times(system: System, orders: int, *, poisoned: random.Random | None = None) -> list[float]:
    """Latency of healthy orders, one at a time, from acceptance to the end; with poison at the head of each queue, and
    1 % mixed in."""
    took = []
    sent = 0
    for number in range(orders):
        if poisoned and (number == 0 or poisoned.random() < 0.05):
            for service in SERVICES:
                system.send(service, *(poison(sent + i) for i in range(11 if number == 0 else 1)))
            sent += 11 if number == 0 else 1
        began = time.monotonic()
        system.until_terminal(system.place(KINDS[number % len(KINDS)]))
        took.append(time.monotonic() - began)
    if poisoned:
        for service in SERVICES:
            found = system.take_dead_letters(service, sent)
            assert len(found) == sent
            assert all(reason for _, reason, _ in found)
            assert {receives for _, _, receives in found} == {1}, "dead-lettered at the first receive"
    return took


def test_poison_is_dead_lettered_and_holds_nobody_up(system: System, seed: int, measured: Callable[..., None]) -> None:
    """Eleven messages, more than a batch, are at the head of each queue, and more in between: all are dead-lettered
    with their reason, and no healthy order of their batches has to wait until its message becomes visible again. (Times
    are measured at full size only: the p99 of a few orders is their slowest.)"""
    took = times(system, 16, poisoned=random.Random(seed))
    measured(slowest_s=max(took))
    assert max(took) < VISIBILITY
    system.check()


@pytest.mark.full
def test_healthy_orders_do_not_wait_behind_poison(system: System, seed: int, measured: Callable[..., None]) -> None:
    """With the same poison around 200 orders, their p99 at most doubles."""
    baseline = times(system, 200)
    poisoned = times(system, 200, poisoned=random.Random(seed))
    p99 = [quantiles(t, n=100, method="inclusive")[98] for t in (baseline, poisoned)]
    measured(p99_s=p99[1], p99_without_s=p99[0])
    assert p99[1] <= 2 * p99[0]
    system.check()


FAILING = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a bug in the handler'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON reservations FOR EACH ROW WHEN (NEW.order_id = '{}') EXECUTE FUNCTION refuse()
"""


def test_a_failing_handler_is_tried_five_times(system: System) -> None:
    """The message is dead-lettered with the reason; the others of its batches are handled. After the repair and a
    redrive, the order completes."""
    bad = clock.new_id()
    body = compose(
        ReserveStock(items=(Item(sku="BOOK-1", quantity=1),)), source="test", order_id=bad,
        workflow=Workflow.CHOREOGRAPHY, event_bus=EventBus.SNS,
    ).encode()  # fmt: skip
    system.sql("inventory", FAILING.format(bad))
    try:
        system.send("inventory", body)
        healthy = [system.place(kind) for kind in KINDS]
        assert set(system.until_terminal(*healthy)) == {"CONFIRMED"}
        [(parked, reason, _)] = system.take_dead_letters("inventory", 1)
    finally:
        system.sql("inventory", "DROP TRIGGER refuse ON reservations; DROP FUNCTION refuse")
    assert parked == body
    assert "failed 5 times" in reason
    assert "a bug in the handler" in reason
    message_id = json.loads(body)["id"]
    assert system.sql("inventory", "SELECT count FROM failures WHERE message_id = %s", message_id) == [(5,)]
    assert not system.sql("inventory", "SELECT 1 FROM inbox WHERE message_id = %s", message_id), "a redrive works"
    system.send("inventory", body)
    reserved = "SELECT 1 FROM reservations WHERE order_id = %s AND state = 'reserved'"
    until(lambda: system.sql("inventory", reserved, bad))
    system.sql("inventory", "DELETE FROM reservations WHERE order_id = %s", bad)  # it belongs to no order
    system.sql("inventory", "UPDATE stock SET available = available + 1, reserved = reserved - 1 WHERE sku = 'BOOK-1'")
    system.check(acknowledged=healthy)
