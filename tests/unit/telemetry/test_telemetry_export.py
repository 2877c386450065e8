"""Spans on their way out of a process, to a receiver that may be away."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from orderflow.telemetry.sdk import AskFirst


class Receiver(SpanExporter):
    """Takes spans or doesn't; how many it was asked to take, each time."""

    def __init__(self) -> None:
        self.there = True
        self.asked: list[int] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.append(len(spans))
        return SpanExportResult.SUCCESS if self.there else SpanExportResult.FAILURE


def test_after_a_failure_the_receiver_is_asked_before_spans_are_encoded_for_it() -> None:
    receiver = Receiver()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(AskFirst(receiver)))
    tracer = provider.get_tracer("test")
    for there in (True, False, False, False, True, True):
        receiver.there = there
        tracer.start_span("one").end()
    assert receiver.asked == [1, 1, 0, 0, 0, 1, 1]
