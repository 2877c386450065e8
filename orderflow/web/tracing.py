"""A server span for each request, by OpenTelemetry's HTTP conventions and its Flask instrumentation.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

from typing import Any, Final

import structlog
from flask import Flask, request
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider

from orderflow import telemetry
from orderflow.environment import prefer_stable_http_conventions

log = structlog.get_logger(__name__)

_UNTRACED: Final = r"^https?://[^/]*/(healthz|readyz|metrics|openapi\.json|docs)?(/|\?|$)"
"""URLs that make no span: those that machines request every few seconds, and pages of documentation."""


def trace_requests(app: Flask) -> None:
    """Makes every request to `app` a span, a child of the caller's `traceparent`, if this process traces.

    Call it before anything else is done to `app`: a check that refuses requests before the span begins is not traced.
    """
    provider = telemetry.provider()
    if provider is None:
        return
    prefer_stable_http_conventions()
    try:
        _instrument(app, provider)
    except Exception as error:  # noqa: BLE001 - including errors during import
        log.error("requests make no spans: a setting of OpenTelemetry's (OTEL_*) can't be used", error=str(error))


def _instrument(app: Flask, provider: trace.TracerProvider) -> None:
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
        app,
        request_hook=_name,
        tracer_provider=provider,
        meter_provider=NoOpMeterProvider(),  # /metrics counts requests already
        excluded_urls=_UNTRACED,
        enable_commenter=False,
    )
    app.before_request(_drop_query)


def _name(span: trace.Span, environ: dict[str, Any]) -> None:
    # No route matches: the library would use the path, which can be anything.
    if request.url_rule is None:
        span.update_name(request.method)


def _drop_query() -> None:
    # Runs after the library has set it: the query may contain personal data.
    if request.query_string:
        trace.get_current_span().set_attribute("url.query", "redacted")
