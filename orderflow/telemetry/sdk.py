"""The OpenTelemetry SDK of a process: batches spans in a bounded queue and sends them by OTLP over HTTP.

Imported only if spans are wanted, because the SDK takes time to load. While the receiver is unavailable, spans are
dropped, and one log line per minute says so.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from orderflow.settings import Settings
from orderflow.telemetry.sampler import reservoir

_TIMEOUT: Final = 2.0
"""Seconds that one export may take, with its retries, unless OTEL_EXPORTER_OTLP_TIMEOUT sets another limit."""

_QUIET: Final = 60.0
"""Seconds between two log lines about the same problem."""


class _Seldom(logging.Filter):
    """Lets one record through per `_QUIET` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _QUIET
        record.exc_info = None
        return True


class AskFirst(SpanExporter):
    """Exports with `exporter`; after a failure, only once that has accepted an empty batch.

    A batch is encoded before the receiver is called, and while the receiver is unavailable batches grow, since each
    failure takes time: that would delay requests, which share the interpreter's lock.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._unavailable = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._unavailable and self._exporter.export(()) is not SpanExportResult.SUCCESS:
            return SpanExportResult.FAILURE
        result = self._exporter.export(spans)
        self._unavailable = result is not SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def make_provider(service: str, settings: Settings) -> TracerProvider:
    """The provider of this process, with its exporting thread."""
    seldom = _Seldom()
    for name in (
        "opentelemetry.sdk._shared_internal",
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
        "opentelemetry.exporter.http.transport",
        "urllib3.connectionpool",
    ):
        logging.getLogger(name).addFilter(seldom)
    resource = Resource.create(
        {
            "service.name": service,
            "service.namespace": settings.orderflow_stack,
            "service.instance.id": f"{os.uname().nodename}-{os.getpid()}",
            "process.pid": os.getpid(),
        }
    )
    # None: the SDK follows OTEL_TRACES_SAMPLER.
    sampler = None if settings.otel_traces_sampler else reservoir(settings.traces_per_second)
    provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
    exporter = AskFirst(OTLPSpanExporter(timeout=settings.otel_timeout or _TIMEOUT))
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=settings.otel_bsp_schedule_delay))
    return provider
