"""One order has one connected trace in the real Jaeger, in every workflow and for every outcome.

The first test places all orders at once; each test then waits until its own trace is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orderflow import clock
from orderflow.contracts import MESSAGES, EventBus, Workflow, name_of
from orderflow.routing import TABLE, Channel, route
from orderflow.saga import STEPS
from tests.support.bodies import order_body
from tests.support.system import KINDS, System, kind_id, until
from tests.support.traces import Jaeger, Trace, jaeger_of, malformed, trace_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

Kind = tuple[Workflow, EventBus]

SECRETS = ("Wilhelmina Vantongeren", "77 Quibbleforth Lane", "Zzyzx-am-See", "pm_card", "tasktoken", "shipping_address")
"""The personal data in the orders of this file."""
ADDRESS = {"name": SECRETS[0], "line1": SECRETS[1], "city": SECRETS[2], "postal_code": "10115", "country": "DE"}

ASKS: dict[str, dict[str, Any]] = {
    "success": {},
    "slow card": {"payment_method": "pm_card_timeout"},
    "sold out": {"sku": "SOLDOUT-1"},
    "declined": {"payment_method": "pm_card_declined"},
    "undeliverable": {"shipping_address": ADDRESS | {"postal_code": "00000"}},
    "customer cancel": {"payment_method": "pm_card_timeout"},
}

_PAID = "OrderPlaced ReserveStock StockReserved ChargePayment PaymentCharged"
_DECLINED = "OrderPlaced ReserveStock StockReserved ChargePayment PaymentDeclined ReleaseStock StockReleased"
_REFUNDED = "ShipmentRejected RefundPayment PaymentRefunded ReleaseStock StockReleased CancelOrder OrderCancelled"
_COMMANDED: dict[str, tuple[str, ...]] = {
    "success": (f"{_PAID} ScheduleShipment ShipmentScheduled ConfirmOrder OrderConfirmed",),
    "sold out": ("OrderPlaced ReserveStock StockRejected CancelOrder OrderCancelled",),
    "declined": (f"{_DECLINED} CancelOrder OrderCancelled",),
    "undeliverable": (f"{_PAID} ScheduleShipment {_REFUNDED}",),
}
CHAINS: dict[Workflow, dict[str, tuple[str, ...]]] = {
    Workflow.CHOREOGRAPHY: {
        "success": ("OrderPlaced StockReserved PaymentCharged ShipmentScheduled OrderConfirmed",),
        "sold out": ("OrderPlaced StockRejected OrderCancelled",),
        "declined": ("OrderPlaced StockReserved PaymentDeclined StockReleased OrderCancelled",),
        # Compensated in parallel: the later one of the two cancels the order.
        "undeliverable": (
            "OrderPlaced StockReserved PaymentCharged ShipmentRejected StockReleased",
            "OrderPlaced StockReserved PaymentCharged ShipmentRejected PaymentRefunded",
        ),
    },
    Workflow.ORCHESTRATION: _COMMANDED,
    Workflow.STEP_FUNCTIONS: _COMMANDED,
    Workflow.HYBRID: _COMMANDED
    | {
        "success": (f"{_PAID} OrderPaid ShipmentScheduled OrderConfirmed",),
        "undeliverable": (f"{_PAID} OrderPaid {_REFUNDED}",),
    },
}
"""The chains of causes: each message is made while the previous one is handled."""

for _chains in CHAINS.values():
    _chains["slow card"] = _chains["success"]

CALLS = {
    "success": ["charge", "shipment"], "slow card": ["charge", "shipment"], "declined": ["charge"],
    "undeliverable": ["charge", "shipment", "void charge"], "sold out": [],
}  # fmt: skip
"""The provider's calls of each outcome."""

CASES = [(kind, outcome) for outcome in ASKS for kind in KINDS if kind[1] is EventBus.SNS or outcome == "success"]
NAMED = {outcome: [pytest.param(k, o, id=f"{kind_id(k)}-{o}") for k, o in CASES if o == outcome] for outcome in ASKS}


@pytest.fixture(scope="module")
def jaeger(system: System) -> Jaeger:
    return jaeger_of(system)


@pytest.fixture(scope="module")
def orders(system: System, jaeger: Jaeger) -> dict[tuple[Kind, str], str]:
    """The id of each case's order; those of customers who change their mind are cancelled while their card is slow."""
    system.clean()

    def place(case: tuple[Kind, str]) -> str:
        kind, outcome = case
        order_id = system.place(kind, **{"shipping_address": ADDRESS, **ASKS[outcome]})
        if outcome == "customer cancel":
            begun = "SELECT 1 FROM payments WHERE order_id = %s"
            until(lambda: system.sql("payment", begun, order_id), what=lambda: (kind, system.story(order_id)))
            assert system.cancel(order_id) == 202
        return order_id

    with ThreadPoolExecutor(6) as pool:
        return dict(zip(CASES, pool.map(place, CASES), strict=True))


def hops(workflow: Workflow, chain: str) -> Iterator[tuple[str, ...]]:
    """The paths of process and publish spans that follow from a chain of messages and the routing table."""
    path: tuple[str, ...] = ("POST /orders@order",)
    names = chain.split()
    for name, following in zip(names, [*names[1:], ""], strict=True):
        cell = route(workflow, MESSAGES[name])
        sender = path[-1].partition("@")[2]
        if not (workflow is Workflow.STEP_FUNCTIONS and by_machine(name)):
            yield (*path, f"publish {name}@{sender}")
        received = {listener: (*path, f"process {name}@{listener}") for listener in cell.listeners}
        if cell.channel in (Channel.START, Channel.TOKEN):
            continue  # the machine makes no spans: what it sends is the child of the message that it received
        yield from received.values()
        if following:
            path = received[maker_of(workflow, following)]


def by_machine(name: str) -> bool:
    """Whether the coordinator sends the message."""
    commands = {name_of(m) for step in STEPS for m in (step.command, step.undo)}
    return name in commands | {"ConfirmOrder", "CancelOrder", "OrderPaid"}


def maker_of(workflow: Workflow, name: str) -> str:
    """The service that makes a message."""
    if by_machine(name):
        return "orchestrator"
    outcomes = {name_of(m): step.service for step in STEPS for m in (step.success, step.refusal, step.undone)}
    return outcomes.get(name, "order")


@pytest.mark.parametrize(("kind", "outcome"), [c for o, named in NAMED.items() if o in CALLS for c in named])
@pytest.mark.row(20)
def test_an_order_is_one_tree(
    system: System, jaeger: Jaeger, orders: dict[tuple[Kind, str], str], kind: Kind, outcome: str
) -> None:
    """One root, no orphan, every hop below its cause, with its attributes; an error only where something failed."""
    order_id = orders[kind, outcome]
    [status] = system.until_terminal(order_id)
    assert status == ("CONFIRMED" if outcome in ("success", "slow card") else "CANCELLED")
    expected = {path for chain in CHAINS[kind[0]][outcome] for path in hops(kind[0], chain)}

    def missing(trace: Trace) -> list[str]:
        absent = [" > ".join(path) for path in expected - trace.paths]
        if outcome == "undeliverable" and not [s for s in trace if s.label == "publish OrderCancelled@order"]:
            absent.append("publish OrderCancelled")
        return absent + malformed(trace, order_id, *kind)

    trace = trace_of(system, jaeger, order_id, missing)
    if not trace.resent:  # on a busy machine there may be more
        messages = {s.path for s in trace if s.message}
        unexpected = {p for p in messages - expected if not p[-1].endswith("OrderCancelled@order")}
        assert not unexpected, trace.drawn()
        has_provider_calls(trace, outcome)
    assert {s.label for s in trace if s.failed} == ({"charge@payment"} if outcome == "slow card" else set())
    assert not [secret for secret in SECRETS if secret in trace.text]


def has_provider_calls(trace: Trace, outcome: str) -> None:
    """Each call is below the step that makes it; if the card is slow, the attempts without an answer have the error."""
    calls = [s for s in trace if "peer.service" in s.tags]
    attempts = {"slow card": ["charge", "charge", "charge", "shipment"]}.get(outcome, CALLS[outcome])
    assert [s.name for s in calls] == attempts, trace.drawn()
    for call in calls:
        assert call.parent
        assert call.parent.name.startswith("process "), trace.drawn()
        assert call.parent.service == call.service == call.tags["peer.service"].removesuffix(" provider")
    failures = [(s.failed, s.tags.get("error.type")) for s in calls if s.name == "charge"]
    if outcome == "slow card":
        assert [failed for failed, _ in failures] == [True, True, False]
        assert {kind for failed, kind in failures if failed} == {"UnknownOutcome"}


@pytest.mark.parametrize("kind", [k for k in KINDS if k[1] is EventBus.SNS], ids=kind_id)
@pytest.mark.row(20)
def test_a_cancelled_order_is_one_tree(
    system: System, jaeger: Jaeger, orders: dict[tuple[Kind, str], str], kind: Kind
) -> None:
    """The customer's request and every compensation are in the order's own trace."""
    order_id = orders[kind, "customer cancel"]
    assert system.until_terminal(order_id) == ["CANCELLED"]
    root = ("POST /orders@order",)
    told = route(kind[0], MESSAGES["OrderCancellationRequested"])
    if told.channel is Channel.TOKEN:  # the machine asks, and this is the answer to its own request
        expected = set()
    else:
        expected = {(*root, f"process OrderCancellationRequested@{listener}") for listener in told.listeners}
        expected.add((*root, "publish OrderCancellationRequested@order"))
    undos = {f"publish {name_of(step.undone)}@{step.service}" for step in STEPS} | {"publish OrderCancelled@order"}

    def missing(trace: Trace) -> list[str]:
        absent = [" > ".join(path) for path in expected - trace.paths]
        absent += sorted(undos - {s.label for s in trace})
        return absent + malformed(trace, order_id, *kind)

    trace = trace_of(system, jaeger, order_id, missing)
    assert not [secret for secret in SECRETS if secret in trace.text]


def test_a_step_links_to_the_batch_it_came_in(
    system: System, jaeger: Jaeger, orders: dict[tuple[Kind, str], str]
) -> None:
    """The receive span is a trace of its own, of one batch of up to ten orders' messages."""
    trace = trace_of(system, jaeger, orders[KINDS[0], "success"], lambda t: [] if len(t.paths) > 10 else ["spans"])
    processed = [s for s in trace if s.name.startswith("process ")]
    assert processed
    for step in processed:
        [batch_id] = step.linked
        batch = until(lambda batch_id=batch_id: jaeger.find(batch_id), 30)
        [receive] = batch
        assert receive.label == f"receive {step.service}@{step.service}"
        assert receive.tags["span.kind"] == "client"
        assert receive.tags["messaging.operation.type"] == "receive"
        assert receive.tags["messaging.destination.name"] == f"orderflow-{step.service}"
        assert 1 <= receive.tags["messaging.batch.message_count"] <= 10
        assert receive.began <= step.began


def test_services_read_well_in_jaegers_list(jaeger: Jaeger, orders: dict[tuple[Kind, str], str]) -> None:
    """Spans have their own names, and there are no others."""
    services = {"order", "inventory", "payment", "shipping", "orchestrator"}
    until(lambda: jaeger.services() >= services, 30, jaeger.services)
    assert jaeger.services() - {"jaeger"} == services


def test_the_callers_trace_continues(system: System, jaeger: Jaeger) -> None:
    """A caller that sends a traceparent finds the order in its own trace; its sampling decision is respected."""
    trace_id, span_id = "0123456789abcdef" + clock.new_id()[-12:] + "0000", "00f067aa0ba902b7"
    answer = system.post(order_body(), traceparent=f"00-{trace_id}-{span_id}-01")
    assert answer.json()["trace_id"] == trace_id
    order_id = answer.json()["id"]
    system.until_terminal(order_id)
    end = "publish OrderConfirmed@order"

    def missing(trace: Trace) -> list[str]:
        # Spans arrive per process, in any order: the trace is complete when only the first one's parent is elsewhere.
        return [] if end in {span.label for span in trace} and len(trace.orphans) == 1 else [end]

    [root] = trace_of(system, jaeger, order_id, missing).orphans
    assert (root.label, root.parent_id) == ("POST /orders@order", span_id)


def test_an_order_that_is_not_sampled_leaves_no_span(system: System, jaeger: Jaeger) -> None:
    """No service records it, and the order says so; another order's complete trace shows that spans did arrive."""
    trace_id = "0123456789abcdef" + clock.new_id()[-12:] + "0000"
    unsampled = system.post(order_body(), traceparent=f"00-{trace_id}-00f067aa0ba902b7-00").json()
    assert (unsampled["trace_id"], unsampled["traced"]) == (trace_id, False)
    system.until_terminal(unsampled["id"])
    sampled = system.post(order_body()).json()
    assert sampled["traced"]
    system.until_terminal(sampled["id"])
    end = "publish OrderConfirmed@order"
    trace_of(system, jaeger, sampled["id"], lambda t: [] if end in {s.label for s in t} and not t.orphans else [end])
    assert jaeger.find(trace_id) is None


def test_nothing_private_is_in_any_span(system: System, jaeger: Jaeger, orders: dict[tuple[Kind, str], str]) -> None:
    """In everything that the services have exported, for all outcomes."""
    system.until_terminal(*orders.values())
    for service in ("order", "inventory", "payment", "shipping", "orchestrator"):
        text = jaeger.everything(service)
        assert "process " in text
        assert not [secret for secret in SECRETS if secret in text], service


assert set(TABLE) == set(CHAINS), "a workflow without its chain"
