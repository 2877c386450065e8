"""Spans of the calls that a handler waits for: to the database, and to the provider."""

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
    """A span of a database transaction, if another span is current."""
    tracer = _tracer.tracer()
    if tracer is None or not trace.get_current_span().is_recording():
        yield
        return
    with _called(tracer, f"db commit {name}", None, {"db.system.name": "postgresql", "db.namespace": name}):
        yield


@contextmanager
def provider_call(name: str, parent: Span | None, service: str) -> Iterator[None]:
    """A span of one attempt of `service` to call its provider, such as `charge`, within the span `parent` (None: not
    traced). It is an error if the attempt raises, not if the provider refuses."""
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
    """Marks a span as failed, with the error's class only: its text may quote personal data."""
    span.set_status(Status(StatusCode.ERROR, type(error).__name__))
    span.set_attribute("error.type", type(error).__name__)
