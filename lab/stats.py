"""The few statistics that the lab needs: medians with their range. A handful of rounds supports nothing finer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Spread", "median", "paired_ratios", "percentile", "spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, and the smallest and largest of them."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of values; None if there are none."""
    if not values:
        return None
    return Spread(median(values), min(values), max(values), len(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values do not exceed (nearest rank): one that was measured.

    Raises ValueError for no values, or a percentage that isn't in (0, 100].
    """
    if not values or not 0 < percent <= 100:
        raise ValueError(f"no {percent} % of {len(values)} values")
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1]


def paired_ratios(pairs: Sequence[tuple[float | None, float | None]]) -> list[float]:
    """Each pair's first over its second, where both were measured and the second isn't zero.

    Ratios are taken within a pair, never of two medians: the machine drifts between pairs.
    """
    return [over / under for over, under in pairs if over is not None and under]
