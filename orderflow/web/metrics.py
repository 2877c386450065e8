"""`/metrics`, in the text format of Prometheus. Reads what the parts count anyway; a scrape costs two statements."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import psycopg
from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from werkzeug.routing import Rule

from orderflow import measures
from orderflow.bus import aws
from orderflow.errors import DatabaseUnavailable
from orderflow.service import Service
from orderflow.web.operations import Answer, operation

requests: Counter[tuple[str, str, int]] = Counter()
"""Answers by method, route and status."""

_OUTBOX: Final = """
SELECT count(*) FILTER (WHERE parked IS NULL), count(*) FILTER (WHERE parked IS NOT NULL),
       min(entry::text) FILTER (WHERE parked IS NULL)
FROM outbox
"""


def count_request(method: str, rule: Rule | None, status: int) -> None:
    """Counts one answer, by its route (never by its path: that would grow without end)."""
    requests[method if rule else "other", rule.rule if rule else "none", status] += 1


def blueprint(service: Service) -> Blueprint:
    """`/metrics` of `service`, and of this process of it."""
    registry = CollectorRegistry()
    registry.register(_Collected(service))
    page = Blueprint("metrics", __name__)

    @page.get("/metrics")
    @operation("Metrics for Prometheus", access="open", hidden=True)
    def metrics() -> Answer:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return page


class _Collected(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service
        self._started = time.time()

    def describe(self) -> Iterator[Metric]:
        # Without this the registry would collect once, just to learn the names.
        yield from ()

    def collect(self) -> Iterator[Metric]:
        started = GaugeMetricFamily(
            "orderflow_process_start_time_seconds", "Of the process that answers", labels=["pid"]
        )
        started.add_metric([str(os.getpid())], self._started)
        yield started
        yield from self._outbox()
        yield from self._consumer()
        yield _counter("http_requests", "Answers", ("method", "route", "status"), requests)
        yield _counter(
            "aws_calls",
            "AWS calls",
            ("service", "operation"),
            {tuple(k.split(":", 1)): n for k, n in aws.calls.items()},
        )
        yield _counter("messages_handled", "Messages handled", ("type", "verdict"), measures.handled)
        yield _counter("messages_unheard", "Known messages without a reaction", ("service", "type"), measures.unheard)
        yield _histogram("batch_size", "Messages received at once", measures.batch_sizes)
        yield _histogram("handling_seconds", "Time from receipt to verdict, a message", measures.handling)
        gauges = getattr(self._service.application, "gauges", None)
        if gauges is not None:
            try:
                for name, value in gauges().items():
                    yield _gauge(name, "See the service", value)
            except DatabaseUnavailable:
                pass  # /readyz says it; the other metrics matter all the more then
        families = getattr(self._service.application, "metrics", None)
        if families is not None:
            yield from families()

    def _outbox(self) -> Iterator[Metric]:
        try:
            [(waiting, parked, oldest)] = self._service.database.query(_OUTBOX)
        except (DatabaseUnavailable, psycopg.Error):
            yield _gauge("database_up", "Whether the database answers", 0)
            return
        yield _gauge("database_up", "Whether the database answers", 1)
        yield _gauge("outbox_messages", "Staged messages that are not marked as sent", waiting)
        yield _gauge("outbox_parked", "Messages that the broker refused for good", parked)
        yield _gauge("outbox_lag_seconds", "Age of the oldest message not marked as sent", _age(oldest))

    def _consumer(self) -> Iterator[Metric]:
        consumer = self._service.consumer
        yield _gauge("consumer_silence_seconds", "Since the consumer's last receive", time.monotonic() - consumer.beat)
        drained = consumer.drained_ago()
        if drained != float("inf"):
            yield _gauge("queue_drained_seconds", "Since the queue was last seen empty", drained)


def _age(entry: str | None) -> float:
    """Seconds since a UUIDv7 was minted: its first 48 bits are milliseconds."""
    return max(0.0, time.time() - int(entry.replace("-", "")[:12], 16) / 1000) if entry else 0.0


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"orderflow_{name}", text, value=value)


def _counter(name: str, text: str, labels: tuple[str, ...], counts: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(f"orderflow_{name}", text, labels=labels)
    for key, count in sorted(dict(counts).items()):
        family.add_metric([str(part) for part in key], count)
    return family


def _histogram(name: str, text: str, histogram: measures.Histogram) -> Metric:
    family = HistogramMetricFamily(f"orderflow_{name}", text)
    family.add_metric([], buckets=histogram.cumulated(), sum_value=histogram.total)
    return family
