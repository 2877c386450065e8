"""Real orders through real processes: every workflow over every bus to every outcome, as callers and the oracle see it.

The first test that needs an order places all orders at once, and each test checks its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest

from orderflow import clock
from orderflow.contracts import EventBus, Workflow
from orderflow.routing import COORDINATOR
from services.order.schemas import MAX_LINES
from tests.support import parts
from tests.support.bodies import order_body
from tests.support.system import KINDS, System, kind_id, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("system")]

Kind = tuple[Workflow, EventBus]


class Outcome(NamedTuple):
    """An order, and the outcome that it must have."""

    order: dict[str, Any]
    status: str
    reason: str | None
    ledger: list[str]
    stock: str
    """The state of its reservation."""
    told: set[str]
    """The messages that its timeline must contain, beside OrderPlaced and the final one."""


DONE = {"StockReserved", "PaymentCharged", "ShipmentScheduled"}
OUTCOMES = {
    "success": Outcome({}, "CONFIRMED", None, ["charge", "shipment"], "reserved", DONE),
    "several lines": Outcome(
        {"items": [
            {"sku": "BOOK-1", "quantity": 1}, {"sku": "MUG-1", "quantity": 3}, {"sku": "BOOK-1", "quantity": 2},
        ]},
        "CONFIRMED", None, ["charge", "shipment"], "reserved", DONE,
    ),
    "sold out": Outcome({"sku": "SOLDOUT-1"}, "CANCELLED", "SOLDOUT-1", [], "rejected", {"StockRejected"}),
    "one line sold out": Outcome(
        {"items": [{"sku": "BOOK-1", "quantity": 1}, {"sku": "SOLDOUT-1", "quantity": 1}]},
        "CANCELLED", "SOLDOUT-1", [], "rejected", {"StockRejected"},
    ),
    "declined": Outcome(
        {"payment_method": "pm_card_declined"}, "CANCELLED", "declined", [], "released",
        {"StockReserved", "PaymentDeclined", "StockReleased"},
    ),
    "undeliverable": Outcome(
        {"postal_code": "00000"}, "CANCELLED", "undeliverable", ["charge", "refund"], "released",
        {"StockReserved", "PaymentCharged", "ShipmentRejected", "PaymentRefunded", "StockReleased"},
    ),
    "slow card": Outcome(
        {"payment_method": "pm_card_timeout"}, "CONFIRMED", None, ["charge", "shipment"], "reserved", DONE
    ),
    "slow carrier": Outcome({"postal_code": "99999"}, "CONFIRMED", None, ["charge", "shipment"], "reserved", DONE),
}  # fmt: skip

every_kind = pytest.mark.parametrize("kind", KINDS, ids=kind_id)


@pytest.fixture(scope="module")
def orders(system: System) -> dict[tuple[Kind, str], str]:
    """The id of each kind's order with each outcome."""
    system.clean()
    cases = [(kind, name) for name in OUTCOMES for kind in KINDS]
    with ThreadPoolExecutor(8) as pool:
        ids = pool.map(lambda case: system.place(case[0], **OUTCOMES[case[1]].order), cases)
        return dict(zip(cases, ids, strict=True))


@pytest.mark.parametrize("outcome", list(OUTCOMES))
@every_kind
def test_an_order_ends_as_it_should(
    system: System, orders: dict[tuple[Kind, str], str], kind: Kind, outcome: str
) -> None:
    """Its status and reason, the providers' ledger, the reservation and the timeline all agree."""
    expected, order_id = OUTCOMES[outcome], orders[kind, outcome]
    assert system.until_terminal(order_id) == [expected.status]
    order = system.order(order_id)
    assert (order["workflow"], order["event_bus"]) == (kind[0].value, kind[1].value)
    if expected.reason is None:
        assert order["reason"] is None
    else:
        assert expected.reason in order["reason"]
    assert system.ledger(order_id) == expected.ledger
    assert system.get("inventory", f"/reservations/{order_id}")["state"] == expected.stock
    tells(system, kind, order_id, expected)


def tells(system: System, kind: Kind, order_id: str, expected: Outcome) -> None:
    """The timeline is complete, in order and merged from both logs, and contains the cause of every entry."""
    end = {"CONFIRMED": "OrderConfirmed", "CANCELLED": "OrderCancelled"}[expected.status]
    wanted = expected.told | {"OrderPlaced", end}

    by_saga = COORDINATOR[kind[0]] == "orchestrator"

    def whole() -> Any:
        told = system.timeline(order_id)
        # The order has ended for its own service; its saga learns that by a message. On a busy machine, a coordinator
        # may take longer to record it than the test waits.
        ended = not by_saga or system.get("orchestrator", f"/sagas/{order_id}")["state"] == expected.status
        return ended and not told.get("incomplete") and wanted <= {e["type"] for e in told["entries"]} and told

    timeline = until(whole, 30, lambda: [wanted, system.timeline(order_id)])
    entries = timeline["entries"]
    assert timeline["waiting_for"] is None
    assert entries[0]["type"] == "OrderPlaced"
    assert [e["at"] for e in entries] == sorted(e["at"] for e in entries)
    ids = {e["message_id"] for e in entries}
    assert all(e["causation_id"] in ids for e in entries if e["causation_id"]), entries
    seen = [e["message_id"] for e in entries if e["message_id"] and not e["resend"]]
    assert len(set(seen)) == len(seen), f"each message is told once: {entries}"
    commands = {e["type"] for e in entries if e["kind"] == "command"}
    if kind[0] is Workflow.CHOREOGRAPHY:
        assert commands == set()
    elif expected.status == "CONFIRMED":
        assert {"ReserveStock", "ChargePayment"} <= commands
    if by_saga:
        saga = system.get("orchestrator", f"/sagas/{order_id}")
        assert saga["state"] == expected.status
        assert {line["message_id"] for line in saga["log"]} <= ids


@every_kind
@pytest.mark.row(18)
def test_cancelled_before_anything_happened(system: System, kind: Kind) -> None:
    """202 as soon as it is placed, and 202 again; then nothing of it is left."""
    order_id = system.place(kind)
    assert system.cancel(order_id) == 202
    assert system.cancel(order_id) == 202
    assert system.until_terminal(order_id) == ["CANCELLED"]
    assert system.order(order_id)["reason"] == "cancelled by the customer"
    gave_back(system, order_id)


SLOW = {"payment": {"payment_method": "pm_card_timeout"}, "carrier": {"postal_code": "99999"}}
WAITS = {"payment": ("payments", "payment"), "carrier": ("shipments", "shipping")}


@pytest.mark.parametrize("provider", list(SLOW))
@every_kind
@pytest.mark.row(18)
def test_cancelled_while_a_provider_is_at_it(system: System, kind: Kind, provider: str) -> None:
    """The call is in flight, and may or may not take effect: afterwards there is no charge and no shipment."""
    order_id = system.place(kind, **SLOW[provider])
    table, service = WAITS[provider]
    asked = f"SELECT 1 FROM {table} WHERE order_id = %s AND state = 'intended'"
    until(lambda: system.sql(service, asked, order_id))
    assert system.cancel(order_id) == 202
    assert system.until_terminal(order_id) == ["CANCELLED"]
    gave_back(system, order_id)


@every_kind
@pytest.mark.row(18)
def test_cancelled_too_late(system: System, kind: Kind) -> None:
    """409 once it is confirmed, and it stays confirmed."""
    order_id = system.place(kind)
    assert system.until_terminal(order_id) == ["CONFIRMED"]
    answer = system.http.post(system.url("order", f"/orders/{order_id}/cancel"))
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert system.order(order_id)["status"] == "CONFIRMED"


def gave_back(system: System, order_id: str) -> None:
    """Everything that was done for an order has been compensated."""
    ledger = system.ledger(order_id)
    assert ledger.count("charge") == ledger.count("refund") <= 1
    assert ledger.count("shipment") == ledger.count("cancellation") <= 1
    assert system.get("inventory", f"/reservations/{order_id}")["state"] == "released"


def test_what_an_order_waits_for(system: System) -> None:
    """For every kind: while the card is slow, the timeline says who must answer, since when, and until when."""
    orders = []
    for kind in KINDS:
        orders.append(order_id := system.place(kind, payment_method="pm_card_timeout"))

        def waits_for_payment(order_id: str = order_id) -> Any:
            waiting = system.timeline(order_id)["waiting_for"] or [{"service": None}]
            return waiting[0] if waiting[0]["service"] == "payment" else None

        waiting = until(waits_for_payment, 30, lambda kind=kind: kind_id(kind))
        assert waiting["step"] == "ChargePayment"
        assert waiting["since"] < waiting["deadline"]
    assert set(system.until_terminal(*orders)) == {"CONFIRMED"}


def test_a_timeline_without_its_coordinator_says_so(system: System) -> None:
    """The order's own part is shown, and the name of the service whose part is missing."""
    order_id = system.place((Workflow.ORCHESTRATION, EventBus.SNS))
    system.until_terminal(order_id)
    parts.stop(system.runtime, "orchestrator")
    try:
        timeline = system.timeline(order_id)
        assert timeline["incomplete"] == ["orchestrator"]
        assert timeline["entries"][0]["type"] == "OrderPlaced"
    finally:
        parts.start(system.runtime, "orchestrator")
        system.until_ready()
    until(lambda: not system.timeline(order_id).get("incomplete"))


@pytest.mark.row(16)
def test_the_largest_order_is_delivered_in_every_workflow(system: System) -> None:
    """Every field at its longest, in the characters with the most bytes, over the real broker (FAULTS row 16)."""
    wide = "\N{PILE OF POO}"
    address = {"name": wide * 200, "line1": wide * 200, "city": wide * 100, "postal_code": wide * 20, "country": "DE"}
    largest = {"items": [{"sku": "LAMP-1", "quantity": 1}] * MAX_LINES, "shipping_address": address}
    orders = [system.place(kind, customer_id=wide * 100, **largest) for kind in KINDS]
    assert system.until_terminal(*orders) == ["CONFIRMED"] * len(KINDS)
    for order_id in orders:
        assert system.ledger(order_id) == ["charge", "shipment"]


@pytest.mark.row(17)
def test_one_key_a_hundred_times_at_once_is_one_order(system: System, measured: Callable[..., None]) -> None:
    """All get the same 202; all but one are marked as replays. Another body under it is refused (FAULTS row 17)."""
    key = clock.new_id()
    before = system.sql("order", "SELECT count(*) FROM orders")[0][0]

    def place(_: int) -> httpx.Response:
        body, headers = order_body(customer_id=f"c-{key}"), {"Idempotency-Key": key}
        with httpx.Client(timeout=30, trust_env=False) as caller:
            together.wait(60)
            while True:
                answer = caller.post(system.url("order", "/orders"), json=body, headers=headers)
                if answer.status_code != 503:
                    return answer
                # The first one had not ended when this one gave up waiting: few may wait, and no answer is lost.
                time.sleep(float(answer.headers["Retry-After"]))

    together = threading.Barrier(100)
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(place, range(100)))
    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["id"] for a in answers}) == 1
    assert len({a.headers["location"] for a in answers}) == 1
    assert sorted(a.headers.get("idempotent-replayed", "first") for a in answers) == ["first"] + ["true"] * 99
    measured(at_once=len(answers), orders=len({a.json()["id"] for a in answers}))
    replayed = {tuple(sorted((k, str(v)) for k, v in a.json().items())) for a in answers}
    assert len(replayed) == 1, "the same answer each time"
    assert system.sql("order", "SELECT count(*) FROM orders")[0][0] == before + 1
    other = system.post(order_body(customer_id=f"c-{key}", quantity=3), Idempotency_Key=key)
    assert other.status_code == 422
    assert other.json()["errors"][0]["pointer"] == "/Idempotency-Key"
    assert system.until_terminal(answers[0].json()["id"]) == ["CONFIRMED"]
    again = system.post(order_body(customer_id=f"c-{key}"), Idempotency_Key=key)
    assert again.json()["status"] == "PLACED", "as it was answered the first time"
    assert again.headers["idempotent-replayed"] == "true"


def test_the_list_by_pages(system: System) -> None:
    """Newest first, each order once, for any page size; filters by customer, workflow and status."""
    customer = f"c-{clock.new_id()}"
    kinds = [KINDS[i % len(KINDS)] for i in range(7)]
    placed = [system.place(kind, customer_id=customer) for kind in kinds]
    system.until_terminal(*placed)
    cursor, pages = "", []
    while True:
        page = system.get("order", f"/orders?customer_id={customer}&limit=3{cursor}")
        pages.append([order["id"] for order in page["items"]])
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [i for page in pages for i in page] == placed[::-1]
    hybrid = system.get("order", f"/orders?customer_id={customer}&workflow=hybrid&status=CONFIRMED")
    expected = [i for i, kind in zip(placed, kinds, strict=True) if kind[0] is Workflow.HYBRID]
    assert [order["id"] for order in hybrid["items"]] == expected[::-1]
    assert system.get("order", f"/orders?customer_id={customer}&status=CANCELLED")["items"] == []


def test_an_order_takes_the_systems_workflow(system: System) -> None:
    """An order that names no workflow or bus gets the system's."""
    order_id = system.place()
    order = system.order(order_id)
    assert (order["workflow"], order["event_bus"]) == ("choreography", "sns")
    assert system.until_terminal(order_id) == ["CONFIRMED"]


def test_it_all_adds_up(system: System, orders: dict[tuple[Kind, str], str]) -> None:
    """The oracle over every order of this file: money, goods, stock, intents, outboxes, queues; no dead letter."""
    system.check(acknowledged=list(orders.values()))
    system.no_dead_letters()
