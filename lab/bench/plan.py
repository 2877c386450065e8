"""How much is measured, and in which order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lab.workload import Variant
from orderflow.contracts import Workflow

_SLOW_IN_FLIGHT: Final = 20
_SLOW_ORDERS: Final = 20
"""For Step Functions, where LocalStack ends only a few orders per second: the orders in flight must still end."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to measure per side and round: `seconds` at saturation, with `in_flight` orders in flight, then `orders`
    one at a time. `minutes`: no round begins later than this."""

    rounds: int = 5
    seconds: float = 6.0
    orders: int = 40
    in_flight: int = 100
    minutes: float = 45.0

    def in_flight_of(self, variant: Variant) -> int:
        """Orders in flight at saturation."""
        return min(self.in_flight, _SLOW_IN_FLIGHT) if _slow(variant) else self.in_flight

    def orders_of(self, variant: Variant) -> int:
        """Orders one at a time."""
        return min(self.orders, _SLOW_ORDERS) if _slow(variant) else self.orders

    def about(self, variant: Variant) -> float:
        """Seconds that one side of one pair takes, roughly."""
        return (10 if _slow(variant) else 4) + self.seconds + self.orders_of(variant) * (0.5 if _slow(variant) else 0.1)


def _slow(variant: Variant) -> bool:
    return variant.workflow is Workflow.STEP_FUNCTIONS


@dataclass(frozen=True, slots=True)
class Pair:
    """Two measurements, one right after the other, so that the machine is the same for both."""

    round: int
    variant: Variant
    sides: tuple[str, str]
    """The two sides, in the order in which they are measured."""


def schedule(variants: Sequence[Variant], rounds: int, sides: tuple[str, str], rng: random.Random) -> list[Pair]:
    """Every variant once per round, in shuffled order, as are the sides of each pair, so that drift favours neither."""
    pairs = []
    for number in range(1, rounds + 1):
        shuffled = list(variants)
        rng.shuffle(shuffled)
        for variant in shuffled:
            first, second = rng.sample(sides, 2)
            pairs.append(Pair(number, variant, (first, second)))
    return pairs
