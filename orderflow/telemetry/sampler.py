"""Which orders are traced if OTEL_TRACES_SAMPLER is not set: all, but under load only a limited number per second.

So tracing costs a bounded share of a busy process, and someone who tries single orders finds all of them.
The idea is AWS X-Ray's reservoir: https://docs.aws.amazon.com/xray/latest/devguide/xray-console-sampling.html
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

_BURST: Final = 10.0
"""The burst of a quiet operation, in seconds of its rate."""

_OPERATIONS: Final = 100
"""Maximum number of operations with a reservoir of their own; all others, such as paths without a route, share one."""


class Reservoir(Sampler):
    """Records `rate` new traces per second and operation (a request's method and route), after an initial burst.

    It limits only requests: other spans without a parent belong to messages whose trace is recorded.
    """

    def __init__(self, rate: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._now = now
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if kind is SpanKind.SERVER and not self._take(name):
            return SamplingResult(Decision.DROP)
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        return f"Reservoir({self._rate:g}/s)"

    def _take(self, name: str) -> bool:
        now = self._now()
        most = self._rate * _BURST
        with self._lock:
            key = name if name in self._left or len(self._left) < _OPERATIONS else ""
            left, since = self._left.get(key, (most, now))
            left = min(most, left + (now - since) * self._rate)
            enough = left >= 1
            self._left[key] = (left - enough, now)
        return enough


def reservoir(traces_per_second: float) -> Sampler:
    """A reservoir for new traces; other spans follow their parent."""
    return ParentBased(root=Reservoir(traces_per_second))
