"""FAULTS row 20: four gunicorn workers, each with a tracer of its own; and no collector that takes their spans."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import quantiles

import psutil
import pytest

from orderflow.contracts import EventBus, Workflow
from tests.support.system import System, order_body, overridden, until
from tests.support.traces import Trace, jaeger_of, malformed, trace_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("faults-system"), pytest.mark.row(20)]

WORKERS = 4
Kinds = tuple[tuple[Workflow, EventBus], ...]

sizes = pytest.mark.parametrize("requests", [100, pytest.param(1000, marks=pytest.mark.full)])


@pytest.fixture(scope="module")
def workers(_system: System) -> Iterator[System]:
    """The running system, its order service with four workers."""
    with overridden(_system, {"order": {"WEB_WORKERS": str(WORKERS)}}):
        _system.clean()
        yield _system


def pids(system: System) -> set[int]:
    """The workers' processes."""
    return {child.pid for child in psutil.Process(system.runtime.pid("order")).children()}


def place(system: System, kinds: Kinds, requests: int) -> tuple[dict[str, tuple[Workflow, EventBus]], list[float]]:
    """So many orders from four callers at once: their kinds by id, and the seconds of each answer. None may fail."""

    def one(number: int) -> tuple[str, tuple[Workflow, EventBus], float]:
        kind = kinds[number % len(kinds)]
        began = time.monotonic()
        answer = system.post(order_body(workflow=kind[0].value, event_bus=kind[1].value))
        took = time.monotonic() - began
        assert answer.status_code == 202, answer.text
        return answer.json()["id"], kind, took

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(one, range(requests)))
    return {order_id: kind for order_id, kind, _ in made}, [took for _, _, took in made]


@sizes
def test_each_order_is_one_trace(workers: System, kinds: Kinds, requests: int, measured: Callable[..., None]) -> None:
    """Whichever worker takes the request or a message, the order's spans make one tree; every worker's arrive."""
    jaeger = jaeger_of(workers)
    expected = pids(workers)
    assert len(expected) == WORKERS
    orders, _ = place(workers, kinds, requests)
    assert set(workers.until_terminal(*orders, seconds=600)) == {"CONFIRMED"}
    seen: set[int] = set()
    spans = 0
    for order_id, kind in orders.items():

        def missing(trace: Trace, order_id: str = order_id, kind: tuple[Workflow, EventBus] = kind) -> list[str]:
            end = "publish OrderConfirmed@order"
            return ([] if end in {s.label for s in trace} else [end]) + malformed(trace, order_id, *kind)

        trace = trace_of(workers, jaeger, order_id, missing)
        seen |= {int(s.instance.rpartition("-")[2]) for s in trace if s.service == "order"}
        spans += len(trace.spans)
    measured(orders=len(orders), spans=spans, workers=len(seen & expected))
    assert seen == expected, "spans from every worker"
    workers.check(acknowledged=list(orders))


@sizes
@pytest.mark.extra
def test_nothing_waits_for_a_collector_that_is_away(
    workers: System, kinds: Kinds, requests: int, measured: Callable[..., None]
) -> None:
    """With Jaeger stopped no request fails and every order ends; what that costs the slowest is measured."""
    jaeger_of(workers)
    place(workers, kinds, 20)  # warm
    orders, with_it = place(workers, kinds, requests)
    workers.until_terminal(*orders, seconds=600)
    workers.runtime.stop("jaeger")
    try:
        until(lambda: not workers.runtime.pid("jaeger"))
        more, without = place(workers, kinds, requests)
        assert set(workers.until_terminal(*more, seconds=600)) == {"CONFIRMED"}
    finally:
        workers.runtime.start("jaeger")
    p99 = [quantiles(took, n=100, method="inclusive")[98] for took in (with_it, without)]
    measured(p99_with_ms=round(1000 * p99[0], 1), p99_without_ms=round(1000 * p99[1], 1))
    if requests >= 1000:  # fewer say nothing of a p99
        assert p99[1] <= 1.5 * p99[0] + 0.05
    workers.check(acknowledged=[*orders, *more])
    workers.until_ready()
