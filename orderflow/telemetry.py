"""One connected trace an order, over every hop, by OpenTelemetry's messaging conventions.

The context of the span that causes a message travels in its envelope (`traceparent`): the process span of the message
is that span's child, and linked to the receive span of the batch it came in. Without a tracer (no OTLP endpoint, or
OTEL_SDK_DISABLED) contexts still travel, and nothing else is done.
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from orderflow import measures
from orderflow.envelope import Envelope
from orderflow.measures import count_unheard, unheard
from orderflow.routing import Channel
from orderflow.steps import Step, mark_failed

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from orderflow.outbox import Entry
    from orderflow.settings import Settings

__all__ = [
    "Step",
    "count_unheard",
    "end_steps",
    "new_trace",
    "parent",
    "provider_call",
    "published",
    "received",
    "start",
    "steps",
    "stop",
    "trace_id",
    "tracer",
    "transaction",
    "unheard",
    "use",
    "within",
]

_FLAGS: Final = {flag: TraceFlags(flag) for flag in (0, 1)}
_SYSTEMS: Final = {"sns": "aws.sns", "eventbridge": "aws.eventbridge"}

_provider: TracerProvider | None = None
_tracer: trace.Tracer | None = None
_stack = "orderflow"
_local = threading.local()


def start(service: str, settings: Settings) -> None:
    """Makes this process's tracer, if there is somewhere to send spans. Call it after the fork: a fork would lose its
    thread. Everything else about it is set by OpenTelemetry's own variables."""
    if not settings.traces_wanted:
        use(None, stack=settings.orderflow_stack)
        return
    from orderflow.tracing import make_provider

    use(make_provider(service, settings), stack=settings.orderflow_stack)


def use(provider: TracerProvider | None, *, stack: str = "orderflow") -> None:
    """Traces with `provider`; None: not at all."""
    global _provider, _tracer, _stack
    _provider, _stack = provider, stack
    _tracer = provider.get_tracer("orderflow") if provider else None


def tracer() -> trace.Tracer | None:
    """This process's tracer, if there is one."""
    return _tracer


def stop() -> None:
    """Sends the last spans, within two seconds."""
    if _provider:
        ender = threading.Thread(target=_provider.shutdown, daemon=True)
        ender.start()
        ender.join(2)


def new_trace() -> str:
    """The W3C traceparent of the current span, for what it causes; where there is none, of a new trace."""
    found = trace.get_current_span().get_span_context()
    if found.is_valid:
        return _traceparent(found)
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"


def trace_id() -> str | None:
    """The current span's trace, in 32 hexadecimal digits."""
    found = trace.get_current_span().get_span_context()
    return f"{found.trace_id:032x}" if found.is_valid else None


def _traceparent(found: SpanContext) -> str:
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def _span_context(traceparent: str | None) -> SpanContext | None:
    try:
        _, trace_hex, span_hex, flags = (traceparent or "").split("-")
        found = SpanContext(
            int(trace_hex, 16), int(span_hex, 16), is_remote=True, trace_flags=_FLAGS[int(flags, 16) & 1]
        )
    except ValueError:
        return None
    return found if found.is_valid else None


def parent(traceparent: str | None) -> otel_context.Context:
    """The context for a child of `traceparent`; an empty one, rather than the current, where that is none."""
    found = _span_context(traceparent)
    empty = otel_context.Context()
    return trace.set_span_in_context(NonRecordingSpan(found), empty) if found else empty


def received(count: int, began: int) -> None:
    """A receive call, begun at a time in ns, gave `count` messages. This thread's next batch of steps links to it."""
    measures.batch_sizes.observe(count)
    if _tracer:
        _local.received = count, began, time.time_ns()


def steps(service: str, envelopes: Sequence[Envelope]) -> list[Step]:
    """The steps of a batch, begun now."""
    if not _tracer:
        return [Step(e.name, None, e.traceparent) for e in envelopes]
    links = _receive_links(service)
    destination = f"{_stack}-{service}"
    found = []
    for envelope in envelopes:
        span = _tracer.start_span(
            f"process {envelope.name}",
            parent(envelope.traceparent),
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
        recorded = span if span.is_recording() else None
        found.append(Step(envelope.name, recorded, _traceparent(span.get_span_context())))
    return found


def _about(envelope: Envelope) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "messaging.message.id": envelope.id,
        "orderflow.order_id": envelope.subject,
        "orderflow.workflow": envelope.workflow.value,
    }
    if envelope.resend:
        found["orderflow.resend"] = envelope.resend
    return found


def _receive_links(service: str) -> list[Link]:
    facts = getattr(_local, "received", None)
    if facts is None or _tracer is None:
        return []
    count, began, ended = facts
    _local.received = None
    # A root of its own: the messages of one batch belong to many traces.
    span = _tracer.start_span(
        f"receive {service}",
        otel_context.Context(),
        SpanKind.CLIENT,
        {
            "messaging.system": "aws_sqs",
            "messaging.operation.name": "receive",
            "messaging.operation.type": "receive",
            "messaging.destination.name": f"{_stack}-{service}",
            "messaging.batch.message_count": count,
        },
        start_time=began,
    )
    span.end(ended)
    return [Link(span.get_span_context())]


def end_steps(batch: Sequence[Step], verdicts: Mapping[int, Any]) -> None:
    """Ends the steps of a batch by their verdicts; those that still wait for one (a Future) end when they have it."""
    for i, step in enumerate(batch):
        verdict = verdicts[i]
        if isinstance(verdict, Future):
            verdict.add_done_callback(lambda done, step=step: step.end(done.result()))  # type: ignore[misc]
        else:
            step.end(verdict)


@contextmanager
def within(batch: Sequence[Step | None]) -> Iterator[None]:
    """Makes a batch's first step the current span, as the parent of its transaction's."""
    span = batch[0].span if batch and batch[0] else None
    if span is None:
        yield
        return
    token = otel_context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        otel_context.detach(token)


@contextmanager
def transaction(name: str) -> Iterator[None]:
    """A database transaction: one span, where another one is current."""
    if _tracer is None or not trace.get_current_span().is_recording():
        yield
        return
    with _called(f"db commit {name}", None, {"db.system.name": "postgresql", "db.namespace": name}):
        yield


@contextmanager
def provider_call(name: str, step: Step | None, service: str) -> Iterator[None]:
    """One attempt of `service` to call its provider, such as `charge`. An error when it raises, not when it says no."""
    if _tracer is None or step is None or step.span is None:
        yield
        return
    with _called(name, trace.set_span_in_context(step.span), {"peer.service": f"{service} provider"}):
        yield


@contextmanager
def _called(name: str, context: otel_context.Context | None, attributes: dict[str, str]) -> Iterator[None]:
    assert _tracer is not None
    span = _tracer.start_span(name, context, SpanKind.CLIENT, attributes)
    try:
        yield
    except BaseException as error:
        mark_failed(span, error)
        raise
    finally:
        span.end()


def published(batch: Sequence[Entry], refused: set[int], began: int) -> None:
    """A batch has been sent; the call `began` at a time in ns. `refused`: the entries that the broker didn't take."""
    if not _tracer:
        return
    ended = time.time_ns()
    for i, entry in enumerate(batch):
        envelope = entry.parcel.envelope
        over_bus = entry.channel is Channel.BUS
        span = _tracer.start_span(
            f"publish {envelope.name}",
            parent(envelope.traceparent),
            SpanKind.PRODUCER,
            {
                "messaging.system": _SYSTEMS[entry.target] if over_bus else "aws_sqs",
                "messaging.operation.name": "publish",
                "messaging.operation.type": "send",
                "messaging.destination.name": f"{_stack}-events" if over_bus else f"{_stack}-{entry.target}",
                "messaging.batch.message_count": len(batch),
                **_about(envelope),
            },
            start_time=began,
        )
        if i in refused:
            span.set_status(Status(StatusCode.ERROR, "refused by the broker"))
            span.set_attribute("error.type", "refused")
        span.end(ended)
