"""`/metrics`, in the text format of Prometheus. It reads existing counts: a scrape costs three statements, and every
half a minute one call per dead-letter queue.

Counters and histograms cover all processes of the service; gauges describe the database or this process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import psycopg
import structlog
from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from werkzeug.routing import Rule

from orderflow import metrics
from orderflow.broker import DeadLetterQueue
from orderflow.clock import age
from orderflow.database.migrate import head_of
from orderflow.errors import DatabaseUnavailable, OrderflowError
from orderflow.service import Service
from orderflow.web.operations import Answer, operation
from orderflow.web.sparing import Sparing

log = structlog.get_logger(__name__)

requests: Final = metrics.Counts("http_requests", "Answers", "method", "route", "status")

_GOOD_FOR: Final = 30.0
"""Seconds for which an answer is reused: one call per queue in that time, however many scrapes there are."""

_PATIENCE: Final = 1.0
"""Seconds that a scrape waits for the broker; an unavailable one must not delay the other metrics."""

_OUTBOX: Final = """
SELECT extract(epoch FROM clock_timestamp())::float, (SELECT max(version_num) FROM alembic_version),
       channel, target, waiting, parked, oldest
FROM (SELECT) AS now LEFT JOIN (
    SELECT channel, target, count(*) FILTER (WHERE parked IS NULL) AS waiting, count(parked) AS parked,
           min(entry::text) FILTER (WHERE parked IS NULL) AS oldest
    FROM outbox GROUP BY channel, target
) AS lanes ON true
"""
"""One row per destination; if the outbox is empty, one row without a destination."""


def count_request(method: str, rule: Rule | None, status: int) -> None:
    """Counts one answer, by its route (never by its path, which has unlimited values)."""
    requests[method if rule else "other", rule.rule if rule else "none", str(status)] += 1


def blueprint(service: Service) -> Blueprint:
    """`/metrics` of `service`, and of this process."""
    registry = CollectorRegistry()
    registry.register(_Collected(service))
    page = Blueprint("metrics", __name__)

    @page.get("/metrics")
    @operation("Metrics for Prometheus", access="open", hidden=True)
    def metrics() -> Answer:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return page


class Destination(NamedTuple):
    """What the outbox holds for one destination. `oldest`: the id of the entry that has waited longest."""

    channel: str
    target: str
    waiting: int
    parked: int
    oldest: str | None

    @property
    def lag(self) -> float:
        """Seconds since the oldest entry was staged."""
        return age(self.oldest) if self.oldest else 0.0


class _Collected(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service
        self._started = time.time()
        self._head = head_of(service.name)
        self._depths = Depths(service.broker.dead_letters(service.name))
        self._staged = Sparing(lambda: (service.database.query(_OUTBOX), time.time()))
        self._gauges = Sparing(service.gauges)

    def describe(self) -> Iterator[Metric]:
        # Without this, the registry would collect once only to learn the names.
        yield from ()

    def collect(self) -> Iterator[Metric]:
        started = GaugeMetricFamily(
            "orderflow_process_start_time_seconds", "Of the process that answers", labels=["pid"]
        )
        started.add_metric([str(os.getpid())], self._started)
        yield started
        yield from self._outbox()
        if self._service.works:
            yield from self._consumer()
        yield self._dead_letters()
        with suppress(DatabaseUnavailable, psycopg.Error):  # /readyz reports it, and the other metrics are needed then
            yield from [_gauge(*gauge) for gauge in self._gauges.read()]
        counted = metrics.by_family(self._service.counters.together())
        for family in metrics.families:
            yield _family(family, counted.get(family.name, {}))

    def _outbox(self) -> Iterator[Metric]:
        try:
            rows, asked_at = self._staged.read()
        except (DatabaseUnavailable, psycopg.Error):
            yield _gauge("database_up", "Whether the database answers", 0)
            return
        yield _gauge("database_up", "Whether the database answers", 1)
        clock, revision = rows[0][:2]
        yield _gauge("database_schema_current", "Whether its schema is this code's", revision == self._head)
        ahead = clock - asked_at
        yield _gauge("database_clock_ahead_seconds", "How far its clock is ahead of this process's", ahead)
        found = [Destination(*row[2:]) for row in rows if row[2] is not None]
        waiting, parked = sum(one.waiting for one in found), sum(one.parked for one in found)
        yield _gauge("outbox_messages", "Staged messages that are not marked as sent", waiting)
        yield _gauge("outbox_parked", "Messages that the broker refused for good", parked)
        lag = max((one.lag for one in found), default=0.0)
        yield _gauge("outbox_lag_seconds", "Age of the oldest message not marked as sent", lag)
        yield from self._lanes(found)

    def _lanes(self, found: Sequence[Destination]) -> Iterator[Metric]:
        labels = ["channel", "target"]
        waiting = GaugeMetricFamily("orderflow_lane_messages", "outbox_messages, by destination", labels=labels)
        lag = GaugeMetricFamily("orderflow_lane_lag_seconds", "outbox_lag_seconds, by destination", labels=labels)
        for one in found:
            waiting.add_metric([one.channel, one.target], one.waiting)
            lag.add_metric([one.channel, one.target], one.lag)
        text = "Whether this process takes a destination for unavailable"
        unavailable = GaugeMetricFamily("orderflow_lane_unavailable", text, labels=labels)
        for lane in self._service.publisher.lanes:
            unavailable.add_metric([lane.channel.value, lane.target], not lane.circuit.closed)
        yield from (waiting, lag, unavailable)

    def _dead_letters(self) -> Metric:
        depth = GaugeMetricFamily("orderflow_dlq_messages", "Dead letters; none while unknown", labels=["queue"])
        for queue, count in self._depths.read().items():
            depth.add_metric([queue], count)
        return depth

    def _consumer(self) -> Iterator[Metric]:
        consumer = self._service.consumer
        yield _gauge("consumer_silence_seconds", "Since the consumer's last receive", time.monotonic() - consumer.beat)
        lag = consumer.watermark.lag()
        if lag != float("inf"):
            text = "Since the time before which everything in the queue had been received and handled, as far as known"
            yield _gauge("queue_drained_seconds", text, lag)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"orderflow_{name}", text, value=value)


def _family(family: metrics.Counts | metrics.Histogram, counted: Mapping[tuple[str, ...], float]) -> Metric:
    name = f"orderflow_{family.name}"
    if isinstance(family, metrics.Counts):
        counter = CounterMetricFamily(name, family.text, labels=family.labels)
        for labels, count in counted.items():
            counter.add_metric(labels, count)
        return counter
    histogram = HistogramMetricFamily(name, family.text, labels=family.labels)
    for labels in sorted({key[:-1] for key in counted} or ({()} if not family.labels else set())):
        *buckets, total = (counted.get((*labels, end), 0.0) for end in family.ends)
        so_far = 0.0
        cumulated = [(end, so_far := so_far + count) for end, count in zip(family.ends, buckets, strict=False)]
        histogram.add_metric(labels, buckets=cumulated, sum_value=total)
    return histogram


class Depths:
    """The depths of some queues. It reads them in a thread of its own, one at a time."""

    def __init__(self, queues: Sequence[DeadLetterQueue]) -> None:
        self._queues = queues
        self._lock = threading.Lock()
        self._known: Mapping[str, int] = {}
        self._asked_at = float("-inf")
        self._asking: threading.Thread | None = None

    def read(self) -> Mapping[str, int]:
        """The depths by queue, at most half a minute old; empty while the broker doesn't answer."""
        with self._lock:
            idle = self._asking is None or not self._asking.is_alive()
            if idle and time.monotonic() - self._asked_at > _GOOD_FOR:
                self._asked_at = time.monotonic()
                self._asking = threading.Thread(target=self._ask, name="dlq-depths", daemon=True)
                self._asking.start()
            asking = self._asking
        if asking:
            asking.join(_PATIENCE)
        return self._known

    def _ask(self) -> None:
        try:
            self._known = {queue.name: queue.depth() for queue in self._queues}
        except OrderflowError as error:
            self._known = {}  # no value is better than an outdated one
            log.info("the depth of the dead-letter queues is unknown", error=str(error))
