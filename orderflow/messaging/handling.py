"""The handling of one message, from its receipt to its verdict: a span, a log line, and metrics."""

from __future__ import annotations

import time

import structlog
from opentelemetry.trace import Span, Status, StatusCode

from orderflow import metrics
from orderflow.envelope import Envelope
from orderflow.telemetry.harmless import harmless
from orderflow.telemetry.spans import mark_failed

log = structlog.get_logger(__name__)


class Handling:
    """The handling of one message, from receipt to verdict. `traceparent` goes into the messages that it causes."""

    __slots__ = ("_began", "_envelope", "_outcome", "_span", "traceparent")

    def __init__(self, envelope: Envelope, span: Span | None, traceparent: str | None) -> None:
        self._envelope = envelope
        self._span = span
        self._outcome: str | None = None
        self._began = time.monotonic()
        self.traceparent = traceparent

    @property
    def span(self) -> Span | None:
        """Its span, if it is recorded."""
        return self._span

    @harmless
    def outcome(self, names: str) -> None:
        """Records the names of the messages it caused. A refusal is an outcome like any other, not an error."""
        self._outcome = names
        if self._span:
            self._span.set_attribute("orderflow.outcome", names)

    @harmless
    def failed(self, error: BaseException) -> None:
        """The handler raised an error."""
        if self._span:
            mark_failed(self._span, error)

    @harmless
    def end(self, label: str) -> None:
        """What becomes of the message: done, later or park."""
        metrics.handled[self._envelope.name, label] += 1
        if self._envelope.resend:
            metrics.resent[self._envelope.name,] += 1
        metrics.handling.observe(time.monotonic() - self._began)
        if label == "done" and self._outcome is not None:  # the consumer logs retries and dead letters
            log.info("handled", outcome=self._outcome, **self._envelope.about)
        if self._span:
            if label != "done":
                self._span.set_attribute("orderflow.verdict", label)
            if label == "park":
                self._span.set_status(Status(StatusCode.ERROR, "parked"))
                self._span.set_attribute("error.type", "parked")
            self._span.end()
