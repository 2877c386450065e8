"""Spans of messages: a receive span per batch, a process span per incoming, a publish span per outgoing message."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from orderflow import metrics
from orderflow.envelope import Envelope
from orderflow.messaging.handling import Handling
from orderflow.routing import Channel
from orderflow.telemetry import tracer as _tracer
from orderflow.telemetry.harmless import harmless

_BUSES: Final = {"sns": ("aws.sns", "events"), "eventbridge": ("aws.eventbridge", "")}
_MACHINE: Final = ("aws.step_functions", "orders")

_local = threading.local()


@harmless
def received(count: int, began: int) -> None:
    """Records that a receive call, begun at a time in ns, returned `count` messages. This thread's next batch links to
    it."""
    metrics.batch_sizes.observe(count)
    if _tracer.tracer():
        _local.received = count, began, time.time_ns()


def begin(service: str, envelopes: Sequence[Envelope]) -> list[Handling]:
    """Begins the handling of each message of a batch."""
    tracer = _tracer.tracer()
    if not tracer:
        return [Handling(e, None, e.traceparent) for e in envelopes]
    recorded = any(_tracer.recorded(e.traceparent) for e in envelopes)
    links = (_receive_links(tracer, service) if recorded else None) or []
    destination = _tracer.destination(service)
    return [_begin(tracer, e, destination, links) or Handling(e, None, e.traceparent) for e in envelopes]


@harmless
def _begin(tracer: trace.Tracer, envelope: Envelope, destination: str, links: Sequence[Link]) -> Handling:
    span = tracer.start_span(
        f"process {envelope.name}",
        _tracer.parent(envelope.traceparent),
        SpanKind.CONSUMER,
        {
            "messaging.system": "aws_sqs",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": destination,
            **_about(envelope),
        },
        links,
    )
    mine = span if span.is_recording() else None
    return Handling(envelope, mine, _tracer.traceparent_of(span.get_span_context()))


def _about(envelope: Envelope) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "messaging.message.id": envelope.id,
        "orderflow.order_id": envelope.subject,
        "orderflow.workflow": envelope.workflow.value,
    }
    if envelope.resend:
        found["orderflow.resend"] = envelope.resend
    return found


@harmless
def _receive_links(tracer: trace.Tracer, service: str) -> list[Link]:
    facts = getattr(_local, "received", None)
    if facts is None:
        return []
    count, began, ended = facts
    _local.received = None
    # A root of its own: the messages of one batch belong to many traces.
    span = tracer.start_span(
        f"receive {service}",
        otel_context.Context(),
        SpanKind.CLIENT,
        {
            "messaging.system": "aws_sqs",
            "messaging.operation.name": "receive",
            "messaging.operation.type": "receive",
            "messaging.destination.name": _tracer.destination(service),
            "messaging.batch.message_count": count,
        },
        start_time=began,
    )
    span.end(ended)
    return [Link(span.get_span_context())]


def end(batch: Sequence[Handling], verdicts: Mapping[int, Any]) -> None:
    """Ends the handling of each message with its verdict; if that is a Future, when it completes."""
    for i, handling in enumerate(batch):
        verdict = verdicts[i]
        if isinstance(verdict, Future):
            verdict.add_done_callback(lambda done, handling=handling: handling.end(done.result().label))  # type: ignore[misc]
        else:
            handling.end(verdict.label)


@contextmanager
def within(batch: Sequence[Handling | None]) -> Iterator[None]:
    """Makes the span of a batch's first message the current one, as the parent of the transaction's span."""
    span = batch[0].span if batch and batch[0] else None
    if span is None:
        yield
        return
    token = otel_context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        otel_context.detach(token)


@harmless
def published(channel: Channel, target: str, batch: Sequence[Envelope], refused: set[int], began: int) -> None:
    """Records that a batch was sent by a call that `began` at a time in ns. `refused`: indices that were not
    accepted."""
    tracer = _tracer.tracer()
    if not tracer:
        return
    ended = time.time_ns()
    system, destination = _way(channel, target)
    for i, envelope in enumerate(batch):
        span = tracer.start_span(
            f"publish {envelope.name}",
            _tracer.parent(envelope.traceparent),
            SpanKind.PRODUCER,
            {
                "messaging.system": system,
                "messaging.operation.name": "publish",
                "messaging.operation.type": "send",
                "messaging.destination.name": destination,
                "messaging.batch.message_count": len(batch),
                **_about(envelope),
            },
            start_time=began,
        )
        if i in refused:
            span.set_status(Status(StatusCode.ERROR, "refused by the broker"))
            span.set_attribute("error.type", "refused")
        span.end(ended)


def _way(channel: Channel, target: str) -> tuple[str, str]:
    """`messaging.system` and `messaging.destination.name` of a batch, which has one destination."""
    match channel:
        case Channel.BUS:
            system, name = _BUSES[target]
        case Channel.START | Channel.TOKEN:
            system, name = _MACHINE
        case _:
            system, name = "aws_sqs", target
    return system, _tracer.destination(name)
