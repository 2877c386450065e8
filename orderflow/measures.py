"""What a process counts of its own work, for `/metrics`. Counting never locks: a scrape may be a message behind."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Final

unheard: Counter[tuple[str, str]] = Counter()
"""Known messages that a service has no reaction to, by (service, type)."""

handled: Counter[tuple[str, str]] = Counter()
"""Messages by (type, verdict: done, later or park)."""


class Histogram:
    """Counts values into buckets. `bounds`: the upper ends, ascending; what is above them all goes into +Inf."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulated(self) -> list[tuple[str, float]]:
        """The buckets as Prometheus has them: each with all that is below it."""
        ends = [*map(str, self.bounds), "+Inf"]
        so_far = 0.0
        found = []
        for end, count in zip(ends, self.counts, strict=True):
            so_far += count
            found.append((end, so_far))
        return found


batch_sizes: Final = Histogram((1, 2, 3, 5, 7, 10))
"""Messages received at once."""

handling: Final = Histogram((0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10))
"""Seconds from receipt to verdict."""


def count_unheard(service: str, name: str) -> None:
    """A known message that this service has no reaction to."""
    unheard[service, name] += 1
