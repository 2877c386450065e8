"""Spans of what a handler waits for: the database, and the provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from orderflow.telemetry import tracer as _tracer
from orderflow.telemetry.harmless import harmless


@contextmanager
def transaction(name: str) -> Iterator[None]:
    """A database transaction: one span, where another one is current."""
    tracer = _tracer.tracer()
    if tracer is None or not trace.get_current_span().is_recording():
        yield
        return
    with _called(tracer, f"db commit {name}", None, {"db.system.name": "postgresql", "db.namespace": name}):
        yield


@contextmanager
def provider_call(name: str, parent: Span | None, service: str) -> Iterator[None]:
    """One attempt of `service` to call its provider, such as `charge`, within the span `parent` (None: not traced). An
    error when it raises, not when it says no."""
    tracer = _tracer.tracer()
    if tracer is None or parent is None:
        yield
        return
    with _called(tracer, name, trace.set_span_in_context(parent), {"peer.service": f"{service} provider"}):
        yield


@contextmanager
def _called(
    tracer: trace.Tracer, name: str, context: otel_context.Context | None, attributes: dict[str, str]
) -> Iterator[None]:
    span = harmless(tracer.start_span)(name, context, SpanKind.CLIENT, attributes)
    if span is None:
        yield
        return
    try:
        yield
    except BaseException as error:
        mark_failed(span, error)
        raise
    finally:
        harmless(span.end)()


@harmless
def mark_failed(span: Span, error: BaseException) -> None:
    """Puts an error on a span: by its class, for its text may quote what was handled."""
    span.set_status(Status(StatusCode.ERROR, type(error).__name__))
    span.set_attribute("error.type", type(error).__name__)
