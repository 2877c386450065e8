"""One side, measured twice: at saturation, and with one order at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from lab import observe
from lab.bench.plan import Effort
from lab.lines import LabProblem
from lab.stats import percentile
from lab.system import Counts, Loop, Side
from lab.workload import Variant

_PAUSE: Final = 0.02
"""Seconds between one order's end and the next one's start, so that its last messages don't disturb the next."""
_DISCARDED: Final = 3
"""The first orders of those placed one at a time, which only warm the system up."""
_WARM_LIMIT: Final = 30.0
_DRAIN_LIMIT: Final = 60.0
_CALM: Final = 0.3
"""Seconds for the work after the last decision: its events, its deletes."""


@dataclass(slots=True)
class Measured:
    """The results of one side in one pair. Times are in ms, CPU is in ms of one core per order."""

    side: str
    throughput: float
    """Orders decided per second, within the window."""
    completed: int
    window: float
    calls: float
    calls_by_operation: dict[str, float]
    deliveries: float
    cpu: dict[str, float]
    bystanders: float
    """Cores that the other side's idle processes used meanwhile."""
    others: float
    """Cores that anything else used: the bench itself, the operating system, other users."""
    loaded_p50: float
    latencies: list[float] = field(default_factory=list)
    """Accept → terminal, one order at a time."""
    requests: list[float] = field(default_factory=list)
    """The client's request → terminal."""
    answers: list[float] = field(default_factory=list)
    """The client's request → its 202."""
    calls_single: float | None = None
    unfinished: int = 0
    refused: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def p50(self) -> float | None:
        """The median latency."""
        return percentile(self.latencies, 50) if self.latencies else None

    @property
    def cpu_total(self) -> float:
        """CPU of all its processes."""
        return sum(self.cpu.values())


@dataclass(frozen=True, slots=True)
class _Moment:
    at: float
    usage: observe.Usage
    counts: Counts

    @classmethod
    def of(cls, side: Side, pids: Mapping[str, int]) -> _Moment:
        # The same order at both ends, so that every difference spans the same time.
        usage, at = observe.usage(pids), time.time()
        return cls(at, usage, side.counts())


class Meter:
    """Measures sides. `everybody`: all known processes, to tell the other side's from those of strangers."""

    def __init__(self, effort: Effort, everybody: Callable[[], Mapping[str, int]]) -> None:
        self._effort = effort
        self._everybody = everybody

    def measure(self, side: Side, variant: Variant) -> Measured:
        """Measures at saturation and one order at a time. Raises LabProblem if no order ends."""
        found = self._saturated(side, variant)
        self._singly(side, variant, found)
        return found

    def warm_up(self, side: Side, variant: Variant) -> None:
        """Runs a moment of load and discards its results."""
        seconds = min(3.0, self._effort.seconds)
        side.begin(variant, min(20, self._effort.in_flight_of(variant)), 0.0)
        time.sleep(seconds)
        _wait(lambda: side.completed() > 0, _WARM_LIMIT)
        side.end(_DRAIN_LIMIT)

    def _saturated(self, side: Side, variant: Variant) -> Measured:
        in_flight = self._effort.in_flight_of(variant)
        pids = self._everybody()
        side.begin(variant, in_flight, 0.0)
        # The side is warm: the first burst is over, and orders are spread over all stages.
        time.sleep(min(1.0, self._effort.seconds))
        _wait(lambda: side.completed() >= in_flight, max(_WARM_LIMIT, self._effort.seconds))
        before = _Moment.of(side, pids)
        time.sleep(self._effort.seconds)
        after = _Moment.of(side, pids)
        loop = self._end(side)
        inside = [o for o in loop.orders if before.at < o.decided <= after.at]
        if not inside:
            raise LabProblem(
                f"{side.name}: no order of {variant.name} was decided within {self._effort.seconds:g} s"
                + (f"; {loop.errors[0]}" if loop.errors else "")
            )
        window, count = after.at - before.at, len(inside)
        spent, counts = after.usage.since(before.usage), after.counts.since(before.counts)
        own = side.pids().keys()
        return Measured(
            side.name,
            throughput=count / window,
            completed=count,
            window=window,
            calls=counts.calls.total() / count,
            calls_by_operation={name: n / count for name, n in sorted(counts.calls.items())},
            deliveries=counts.deliveries / count,
            cpu={name: seconds / count * 1000 for name, seconds in spent.processes.items() if name in own},
            bystanders=sum(s for name, s in spent.processes.items() if name not in own) / window,
            others=spent.others / window,
            loaded_p50=percentile([(o.decided - o.accepted) * 1000 for o in inside], 50),
            answers=[(o.answered - o.asked) * 1000 for o in inside if o.answered is not None and o.asked is not None],
            unfinished=loop.unfinished,
            refused=loop.refused,
            errors=loop.errors[:5],
        )

    def _singly(self, side: Side, variant: Variant, found: Measured) -> None:
        wanted = self._effort.orders_of(variant) + _DISCARDED
        before = side.counts()
        side.begin(variant, 1, _PAUSE)
        _wait(lambda: side.completed() >= wanted, max(_WARM_LIMIT, wanted * 1.0))
        loop = self._end(side)
        kept = sorted(loop.orders, key=lambda order: order.accepted)[_DISCARDED:]
        found.latencies = [(o.decided - o.accepted) * 1000 for o in kept]
        found.requests = [(o.decided - o.asked) * 1000 for o in kept if o.asked is not None]
        if loop.orders:
            found.calls_single = side.counts().since(before).calls.total() / len(loop.orders)
        found.unfinished += loop.unfinished
        found.refused += loop.refused
        found.errors += loop.errors[:5]

    def _end(self, side: Side) -> Loop:
        loop = side.end(_DRAIN_LIMIT)
        time.sleep(_CALM)
        return loop


def _wait(condition: Callable[[], bool], limit: float) -> None:
    """Waits until the condition holds, or `limit` seconds have passed: what was found by then counts."""
    ends = time.monotonic() + limit
    while not condition() and time.monotonic() < ends:
        time.sleep(0.1)
