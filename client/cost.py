"""What one order costs, from the services' own counters before and after it: AWS calls, and messages delivered.

The result is right only if nothing else runs and each service has one process. `/metrics` is the sum of all processes,
but includes the counts of the others only seconds later (`orderflow.telemetry.shared_counters`), and this module does
not wait for that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from client.api import Api
from orderflow.routing import SERVICES

_CALLS: Final = "orderflow_aws_calls_total"
_RECEIVES: Final = "orderflow_batch_size_count"
"""Receives that brought at least one message."""
_HANDLED: Final = "orderflow_messages_handled_total"
_UNHEARD: Final = "orderflow_messages_unheard_total"

_NOT_FOR_AN_ORDER: Final = frozenset(
    {
        "ReceiveMessage", "GetQueueUrl", "GetQueueAttributes", "DescribeExecution", "GetExecutionHistory",
        "ListExecutions",
    }
)  # fmt: skip
"""Calls that are counted otherwise (receives) or not caused by an order: the look for the stack's marker after a pause,
the depth of a dead-letter queue (asked when the metrics are read), and the look at an execution (asked when its
timeline is drawn)."""

NOTE: Final = (
    "AWS calls: the difference of the services' /metrics before and after the order, with nothing else running. "
    "Long polls that return empty, the look for the stack's marker after a pause, and looks at an execution or a "
    "dead-letter queue are left out. What a state machine does by itself (transitions, sends) is billed separately and "
    "is no call of a service."
)


@dataclass(frozen=True, slots=True)
class Cost:
    """`calls`: by operation, with only those receives that returned a message; `deliveries`: messages that reached a
    consumer (an event counts once per listener)."""

    calls: Mapping[str, int]
    deliveries: int

    @property
    def total(self) -> int:
        """All AWS calls."""
        return sum(self.calls.values())

    def since(self, before: Cost) -> Cost:
        """The difference."""
        calls = Counter(self.calls)
        calls.subtract(Counter(before.calls))
        return Cost({name: n for name, n in sorted(calls.items()) if n}, self.deliveries - before.deliveries)


def read(api: Api) -> Cost:
    """The current counts of all services. Raises ApiProblem."""
    calls: Counter[str] = Counter()
    deliveries = 0
    for service in SERVICES:
        for family in text_string_to_metric_families(api.text(service, "/metrics")):
            for sample in family.samples:
                value = int(sample.value)
                if sample.name == _CALLS and sample.labels["operation"] not in _NOT_FOR_AN_ORDER:
                    calls[sample.labels["operation"]] += value
                elif sample.name == _RECEIVES:
                    calls["ReceiveMessage"] += value
                elif sample.name in (_HANDLED, _UNHEARD):
                    deliveries += value
    return Cost(dict(calls), deliveries)


def settled(api: Api, calm: float = 0.25, limit: float = 3.0) -> Cost:
    """The counts once they have not changed for `calm` seconds: deletes come after the order's end."""
    ends = time.monotonic() + limit
    last, since = read(api), time.monotonic()
    while time.monotonic() < ends and time.monotonic() - since < calm:
        time.sleep(0.08)
        now = read(api)
        if now != last:
            last, since = now, time.monotonic()
    return last
