"""This process's tracer, and the contexts that are passed on: W3C's traceparent in envelopes and orders."""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, Final

import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from orderflow.settings import Settings

log = structlog.get_logger(__name__)

_FLAGS: Final = {flag: TraceFlags(flag) for flag in (0, 1)}

_provider: TracerProvider | None = None
_tracer: trace.Tracer | None = None
_stack = "orderflow"


def start(service: str, settings: Settings) -> None:
    """Makes this process's tracer, if there is an endpoint to send spans to. Call it after the fork: a fork would lose
    its thread. OpenTelemetry's own variables set everything else; if its SDK can't use them, that is logged, and no
    spans are made."""
    if not settings.traces_wanted:
        use(None, stack=settings.orderflow_stack)
        return
    try:
        from orderflow.telemetry.sdk import make_provider

        made = make_provider(service, settings)
    except Exception as error:  # noqa: BLE001 - from any of many libraries; no message and no request needs them
        log.error("no spans are made: a setting of OpenTelemetry's (OTEL_*) can't be used", error=str(error))
        made = None
    use(made, stack=settings.orderflow_stack)


def use(provider: TracerProvider | None, *, stack: str = "orderflow") -> None:
    """Traces with `provider`; None turns tracing off."""
    global _provider, _tracer, _stack
    _provider, _stack = provider, stack
    _tracer = provider.get_tracer("orderflow") if provider else None


def provider() -> TracerProvider | None:
    """The provider of this process's tracers, if it traces."""
    return _provider


def tracer() -> trace.Tracer | None:
    """The tracer of the kernel's own spans, if there is one."""
    return _tracer


def destination(name: str) -> str:
    """The name in AWS of a part of the stack, such as a service's queue; with an empty name, of the event bus."""
    return f"{_stack}-{name}" if name else _stack


def stop() -> None:
    """Sends the last spans, within two seconds."""
    if _provider:
        ender = threading.Thread(target=_provider.shutdown, daemon=True)
        ender.start()
        ender.join(2)


def new_trace() -> str:
    """The W3C traceparent of the current span, for what it causes; without a span, that of a new trace."""
    found = trace.get_current_span().get_span_context()
    if found.is_valid:
        return traceparent_of(found)
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"


def trace_id() -> str | None:
    """The current span's trace, in 32 hexadecimal digits."""
    found = trace.get_current_span().get_span_context()
    return f"{found.trace_id:032x}" if found.is_valid else None


def about_order(order_id: str, workflow: str, traceparent: str | None = None) -> None:
    """Records which order the current span is about. `traceparent`: the order's, if that is another trace."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes({"orderflow.order_id": order_id, "orderflow.workflow": workflow})
        if found := span_context(traceparent):
            span.add_link(found)


def traceparent_of(found: SpanContext) -> str:
    """A context as a traceparent."""
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def span_context(traceparent: str | None) -> SpanContext | None:
    """The context in a traceparent from outside; None if it is invalid."""
    try:
        _, trace_hex, span_hex, flags = (traceparent or "").split("-")
        found = SpanContext(
            int(trace_hex, 16), int(span_hex, 16), is_remote=True, trace_flags=_FLAGS[int(flags, 16) & 1]
        )
    except ValueError:
        return None
    return found if found.is_valid else None


def recorded(traceparent: str | None) -> bool:
    """Whether the trace was sampled where it began. Also true without a trace, since a new one may begin."""
    found = span_context(traceparent)
    return found is None or found.trace_flags.sampled


def parent(traceparent: str | None) -> otel_context.Context:
    """The context for a child of `traceparent`; if that is invalid, an empty context rather than the current one."""
    found = span_context(traceparent)
    empty = otel_context.Context()
    return trace.set_span_in_context(NonRecordingSpan(found), empty) if found else empty
