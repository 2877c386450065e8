"""Spans as the SDK made them, for unit tests."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


def spans(exporter: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    """All spans that have ended, by name."""
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """The attributes of one span."""
    return dict(span.attributes or {})
