"""Traces: one connected tree an order, made of spans that say what happened and nothing about anybody."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from orderflow import metrics, telemetry
from orderflow.broker.memory import MemoryBroker
from orderflow.contracts import (
    Address,
    EventBus,
    Item,
    Message,
    Money,
    OrderPlaced,
    OrderSnapshot,
    StockRejected,
    StockReserved,
    Workflow,
)
from orderflow.database import Database
from orderflow.envelope import Envelope, compose
from orderflow.errors import Rejected
from orderflow.messaging import tracing
from orderflow.messaging.application import Incoming, Reply
from orderflow.messaging.consumer import Consumer
from orderflow.messaging.guard import Guard
from orderflow.messaging.outbox import Outbox, UnitOfWork
from orderflow.messaging.processor import Processor
from orderflow.messaging.publisher import Publisher
from tests.support.spans import attributes, spans

ORDERS = [f"01980000-0000-7000-8000-00000000000{i}" for i in range(4)]
ROOT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
SNAPSHOT = OrderSnapshot(
    items=(Item(sku="BOOK-1", quantity=1),),
    total=Money(amount=1, currency="EUR"),
    payment_method="pm_card_visa",
    address=Address(name="Ada Secret", line1="1 Main St", city="Berlin", postal_code="10115", country="DE"),
)


class Rows:
    """What a statement gives when nothing is stored."""

    def fetchall(self) -> list[Any]:
        return []


class NoDatabase:
    """Takes every statement, knows nothing."""

    name = "inventory"

    def execute(self, statement: Any, parameters: Any = None) -> Rows:
        return Rows()

    @contextmanager
    def transaction(self, *, lock_timeout: float | None = None) -> Iterator[NoDatabase]:
        yield self


class Inventory:
    """Answers as told, by order."""

    service = "inventory"
    whole_orders = False

    def __init__(self, replies: dict[str, Reply] | None = None) -> None:
        self.replies = replies or {}

    def accept(self, message: Message) -> Message | None:
        return message if isinstance(message, OrderPlaced) else None

    def handle(self, unit: UnitOfWork, batch: Sequence[Incoming]) -> Sequence[Reply]:
        replies = [self.replies.get(m.order_id, [StockReserved(items=())]) for m in batch]
        for reply in replies:
            if isinstance(reply, RuntimeError):
                raise reply
        return replies


class InventoryOnMemoryBroker:
    """One service on the memory bus, run by hand."""

    def __init__(self, replies: dict[str, Reply] | None = None) -> None:
        self.broker = MemoryBroker()
        outbox = Outbox(cast(Database, NoDatabase()), lease=10)
        self.publisher = Publisher(outbox, self.broker)
        processor = Processor(Inventory(replies), outbox, Guard("inventory", lambda message_id, error: 5, parked_at=5))
        self.consumer = Consumer(
            self.broker.queue("inventory"),
            processor,
            database_alive=lambda: True,
            long_poll=0,
            visibility=30,
            heartbeat=10,
        )

    def deliver(self, *orders: str, traceparent: str | None = ROOT, resend: int = 0) -> None:
        for order in orders:
            self.broker.queue("inventory").put(placed(order, traceparent, resend).encode())
        self.consumer.step(0)
        self.publisher.step()


def placed(order: str, traceparent: str | None, resend: int = 0) -> Envelope:
    return compose(
        OrderPlaced(order=SNAPSHOT),
        source="order",
        order_id=order,
        workflow=Workflow.CHOREOGRAPHY,
        event_bus=EventBus.SNS,
        traceparent=traceparent,
        resend=resend,
    )


def test_a_hop_is_a_child_of_its_cause(exporter: InMemorySpanExporter) -> None:
    """process ⟵ the creating message; publish and the transaction ⟵ process; the receive is a root, linked to."""
    InventoryOnMemoryBroker().deliver(ORDERS[0])
    found = spans(exporter)
    assert set(found) == {"receive inventory", "process OrderPlaced", "db commit inventory", "publish StockReserved"}
    [process], [receive] = found["process OrderPlaced"], found["receive inventory"]
    [publish], [commit] = found["publish StockReserved"], found["db commit inventory"]
    assert process.context
    assert process.parent
    assert receive.context
    assert f"{process.context.trace_id:032x}" == ROOT[3:35]
    assert f"{process.parent.span_id:016x}" == ROOT[36:52]
    for child in (publish, commit):
        assert child.parent
        assert child.parent.span_id == process.context.span_id
    assert receive.parent is None
    assert receive.context.trace_id != process.context.trace_id
    assert [link.context.span_id for link in process.links] == [receive.context.span_id]
    assert (process.kind, publish.kind) == (SpanKind.CONSUMER, SpanKind.PRODUCER)
    assert attributes(process)["orderflow.outcome"] == "StockReserved"


def test_spans_follow_the_messaging_conventions(exporter: InMemorySpanExporter) -> None:
    """System, operation, destination, ids and batch size as OpenTelemetry names them."""
    InventoryOnMemoryBroker().deliver(*ORDERS[:3], resend=2)
    found = spans(exporter)
    process = attributes(found["process OrderPlaced"][0])
    publish = attributes(found["publish StockReserved"][0])
    receive = attributes(found["receive inventory"][0])
    assert process["messaging.system"] == receive["messaging.system"] == "aws_sqs"
    assert publish["messaging.system"] == "aws.sns"
    assert (process["messaging.operation.type"], publish["messaging.operation.type"]) == ("process", "send")
    assert process["messaging.destination.name"] == "orderflow-inventory"
    assert publish["messaging.destination.name"] == "orderflow-events"
    assert receive["messaging.batch.message_count"] == publish["messaging.batch.message_count"] == 3
    assert {attributes(s)["orderflow.order_id"] for s in found["process OrderPlaced"]} == set(ORDERS[:3])
    assert process["orderflow.workflow"] == "choreography"
    assert process["orderflow.resend"] == publish["orderflow.resend"] == 2
    assert len(process["messaging.message.id"]) == 36


def test_a_batch_makes_one_receive_and_one_transaction(exporter: InMemorySpanExporter) -> None:
    """Each message has its own place in its own order's trace; what they share is made once."""
    InventoryOnMemoryBroker().deliver(*ORDERS)
    assert {name: len(s) for name, s in spans(exporter).items()} == {
        "receive inventory": 1,
        "process OrderPlaced": 4,
        "db commit inventory": 1,
        "publish StockReserved": 4,
    }


def test_a_refusal_is_no_error(exporter: InMemorySpanExporter) -> None:
    """The business said no: an outcome."""
    InventoryOnMemoryBroker({ORDERS[0]: [StockRejected(reason="sold out")]}).deliver(ORDERS[0])
    [process] = spans(exporter)["process OrderPlaced"]
    assert process.status.status_code is StatusCode.UNSET
    assert attributes(process)["orderflow.outcome"] == "StockRejected"


@pytest.mark.parametrize("failure", [RuntimeError("pm_card_visa"), Rejected("Ada Secret")])
def test_what_failed_carries_the_error(exporter: InMemorySpanExporter, failure: Exception) -> None:
    """Its own span only, and by class: an error's text may quote what was handled."""
    world = InventoryOnMemoryBroker({ORDERS[0]: failure})
    world.deliver(ORDERS[0], ORDERS[1])
    bad, good = None, None
    for span in spans(exporter)["process OrderPlaced"]:
        if attributes(span)["orderflow.order_id"] == ORDERS[0]:
            bad = span
        else:
            good = span
    assert bad
    assert good
    assert bad.status.status_code is StatusCode.ERROR
    assert attributes(bad)["orderflow.verdict"] == "park"
    assert good.status.status_code is StatusCode.UNSET
    assert len(world.broker.queue("inventory").parked) == 1


def test_no_span_holds_card_or_address(exporter: InMemorySpanExporter) -> None:
    """Names, attributes, statuses and events of everything that a snapshot passes through."""
    InventoryOnMemoryBroker({ORDERS[1]: RuntimeError("pm_card_visa of Ada Secret")}).deliver(*ORDERS)
    text = "".join(span.to_json() for span in exporter.get_finished_spans())
    for secret in ("pm_card", "Ada", "Main St", "10115", "Berlin"):
        assert secret not in text


@pytest.mark.parametrize("traceparent", [None, "", "garbage", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-zz-yy-01"])
def test_a_message_without_a_context_starts_a_trace(exporter: InMemorySpanExporter, traceparent: str | None) -> None:
    """Forged or missing contexts hurt nothing."""
    InventoryOnMemoryBroker().deliver(ORDERS[0], traceparent=traceparent)
    found = spans(exporter)
    [process], [publish] = found["process OrderPlaced"], found["publish StockReserved"]
    assert process.parent is None
    assert publish.parent
    assert process.context
    assert publish.parent.span_id == process.context.span_id


def test_an_unsampled_trace_stays_unsampled(exporter: InMemorySpanExporter) -> None:
    """The sampler's decision at the root holds for the whole trace."""
    world = InventoryOnMemoryBroker()
    world.deliver(ORDERS[0], traceparent=ROOT[:-2] + "00")
    assert not spans(exporter)


def test_without_a_tracer_contexts_still_travel() -> None:
    """No spans; the trace id passes from message to message."""
    telemetry.use(None)
    world = InventoryOnMemoryBroker()
    world.deliver(ORDERS[0])
    sent = [Envelope.model_validate_json(d.body) for d in world.broker.queue("order").waiting]
    assert [e.traceparent for e in sent] == [ROOT]


def test_a_new_trace_is_a_valid_traceparent() -> None:
    """Also without a tracer: `POST /orders` always has a trace id to give. It claims no sampling that nobody does."""
    telemetry.use(None)
    first, second = telemetry.new_trace(), telemetry.new_trace()
    assert first != second
    version, trace_id, span_id, flags = first.split("-")
    assert (version, len(trace_id), len(span_id), flags) == ("00", 32, 16, "00")
    assert int(trace_id, 16)
    assert int(span_id, 16)


def test_a_provider_call_is_a_client_span_that_fails_by_itself(exporter: InMemorySpanExporter) -> None:
    """The error is on the call, not on the message, whose call is retried."""
    [step] = tracing.begin("payment", [placed(ORDERS[0], ROOT)])

    def call() -> None:
        with telemetry.provider_call("charge", step.span, "payments"):
            raise TimeoutError("pm_card_timeout")

    with pytest.raises(TimeoutError):
        call()
    step.end("done")
    found = spans(exporter)
    [charge], [process] = found["charge"], found["process OrderPlaced"]
    assert charge.parent
    assert process.context
    assert charge.parent.span_id == process.context.span_id
    assert charge.kind is SpanKind.CLIENT
    assert charge.status.status_code is StatusCode.ERROR
    assert "pm_card" not in charge.to_json()


def test_messages_are_counted_by_verdict() -> None:
    """`/metrics` has them whether there is a tracer or not."""
    before = metrics.handled["OrderPlaced", "done"]
    InventoryOnMemoryBroker().deliver(*ORDERS)
    assert metrics.handled["OrderPlaced", "done"] == before + 4


@pytest.mark.slow
def test_a_receiver_of_spans_that_is_unavailable_costs_nothing_but_the_spans() -> None:
    """Making spans never waits for the exporter, and the end is quick."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint="http://127.0.0.1:9/v1/traces", timeout=2)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=256, max_export_batch_size=64))
    telemetry.use(provider)
    try:
        began = time.monotonic()
        for _ in range(50):
            InventoryOnMemoryBroker().deliver(*ORDERS)
        assert time.monotonic() - began < 2
    finally:
        began = time.monotonic()
        telemetry.stop()
        assert time.monotonic() - began < 2.5
        telemetry.use(None)
