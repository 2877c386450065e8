"""The counters and histograms of a process, for `/metrics`. Counting never locks: a scrape may be one message behind.

Each family of counters or histogram is made once, by the module that counts; `families` lists them all.
`orderflow.telemetry.shared_counters` keeps the sums over all processes of a service.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple


class Counts(Counter[tuple[str, ...]]):
    """A family of counters: a dict from the values of its labels to the count."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        super().__init__()
        self.name, self.text, self.labels = name, text, labels
        families.append(self)

    def samples(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """The counts, by the values of the labels."""
        yield from dict(self).items()


class Histogram:
    """Counts values in buckets, separately for each combination of labels. `bounds`: the upper ends, ascending; values
    above all of them go into +Inf."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> None:
        self.name, self.text, self.labels = name, text, labels
        self.bounds = tuple(bounds)
        self._counts: dict[tuple[str, ...], list[float]] = {}
        families.append(self)

    def observe(self, value: float, *labels: str) -> None:
        """Counts one value."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts.setdefault(labels, [0.0] * (len(self.bounds) + 2))
        counts[bisect_left(self.bounds, value)] += 1
        counts[-1] += value

    def samples(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """The labels' values, with the bucket's upper end (or `sum`) as one more, and the count."""
        for labels, counts in dict(self._counts).items():
            for end, count in zip(self.ends, counts, strict=True):
                yield (*labels, end), count

    @property
    def ends(self) -> tuple[str, ...]:
        """The names of the samples for each combination of labels."""
        return (*map(str, self.bounds), "+Inf", "sum")


class Gauge(NamedTuple):
    """A current value, which a service reads when it is scraped."""

    name: str
    text: str
    value: float


families: Final[list[Counts | Histogram]] = []

handled: Final = Counts("messages_handled", "Messages handled", "type", "verdict")
"""Verdicts: done, later (retry) or park (dead-lettered)."""
resent: Final = Counts("messages_resent", "Messages handled that were resent, or that answer a resent one", "type")
unheard: Final = Counts("messages_unheard", "Known messages without a reaction", "service", "type")
provider_calls: Final = Counts(
    "provider_calls", "Calls to the provider, their attempts, and those without an answer", "kind", "what"
)
batch_sizes: Final = Histogram("batch_size", "Messages received at once", (1, 2, 3, 5, 7, 10))
handling: Final = Histogram(
    "handling_seconds",
    "Time from receipt to verdict, a message",
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


def snapshot() -> dict[str, float]:
    """Everything that this process has counted so far, by a key of family and labels."""
    return {json.dumps([f.name, *labels]): count for f in families for labels, count in f.samples()}


def by_family(counted: Mapping[str, float]) -> dict[str, dict[tuple[str, ...], float]]:
    """A snapshot grouped by family, and within it by the values of the labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for key in sorted(counted):
        name, *labels = json.loads(key)
        found.setdefault(name, {})[tuple(labels)] = counted[key]
    return found
