"""The results of a run: every measurement, what follows from them, and whether the aims are reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from lab.bench.measure import Measured
from lab.stats import Spread, paired_ratios, percentile, spread

THROUGHPUT_AIM: Final = 0.80
LATENCY_AIM: Final = 1.5
CALLS_AIM: Final = 1.2
FLAT: Final = 0.10
"""How much throughput and p50 may change from few to many stored orders and still count as flat."""
TRACING: Final = 0.05
"""The share of throughput and of p99 that tracing may cost."""


@dataclass(frozen=True, slots=True)
class PairResult:
    """One pair of measurements. `first` and `second` are named by the experiment, not by which was measured first."""

    round: int
    variant: str
    order: tuple[str, str]
    """The order in which the sides were measured."""
    sides: dict[str, Measured]
    stored: int | None = None
    """Orders that were stored when it began, if the experiment is about that."""

    def ratio(self, value: Callable[[Measured], float | None], over: str, under: str) -> list[float]:
        """The ratio of one value, if both sides have it."""
        return paired_ratios([(value(self.sides[over]), value(self.sides[under]))])


VALUES: Final[dict[str, Callable[[Measured], float | None]]] = {
    "throughput": lambda m: m.throughput,
    "p50": lambda m: m.p50,
    "calls": lambda m: m.calls,
    "calls_single": lambda m: m.calls_single,
    "cpu": lambda m: m.cpu_total,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One aim in words, with its `value`: a median of paired ratios, or for p99 one ratio over all rounds."""

    what: str
    value: float
    aim: str
    reached: bool


@dataclass(slots=True)
class Experiment:
    """Pairs of the sides `over` and `under`. Ratios are over / under."""

    name: str
    over: str
    under: str
    pairs: list[PairResult] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def groups(self) -> dict[tuple[str, int | None], list[PairResult]]:
        """The pairs by variant and the step of stored orders, in the order they were first measured."""
        found: dict[tuple[str, int | None], list[PairResult]] = {}
        for pair in sorted(self.pairs, key=lambda p: (p.variant, p.stored or 0, p.round)):
            found.setdefault((pair.variant, pair.stored), []).append(pair)
        return found

    def ratios(self, pairs: Iterable[PairResult], value: str) -> Spread | None:
        """The spread of one value's paired ratios."""
        return spread([r for pair in pairs for r in pair.ratio(VALUES[value], self.over, self.under)])


def of_side(pairs: Iterable[PairResult], side: str, value: str) -> Spread | None:
    """The spread of one value of one side."""
    found = [VALUES[value](pair.sides[side]) for pair in pairs]
    return spread([v for v in found if v is not None])


def pooled(pairs: Iterable[PairResult], side: str, percent: float) -> float | None:
    """A percentile over the latencies of all rounds: one round has too few orders for a tail."""
    latencies = [value for pair in pairs for value in pair.sides[side].latencies]
    return percentile(latencies, percent) if latencies else None


def compare_verdicts(experiment: Experiment) -> list[Verdict]:
    """orderflow against the bare loop: throughput, median latency, calls."""
    found = []
    for (variant, _), pairs in experiment.groups().items():
        for value, what, aim, at_least in (
            ("throughput", "of the bare loop's orders/s", THROUGHPUT_AIM, True),
            ("p50", "times the bare loop's p50", LATENCY_AIM, False),
            ("calls", "times the bare loop's AWS calls per order", CALLS_AIM, False),
        ):
            ratio = experiment.ratios(pairs, value)
            if ratio:
                reached = ratio.median >= aim if at_least else ratio.median <= aim
                what = f"{variant}: {ratio.median:.2f} {what}"
                found.append(Verdict(what, ratio.median, f"{'≥' if at_least else '≤'} {aim:.2f}", reached))
    return found


def stored_verdicts(experiment: Experiment) -> list[Verdict]:
    """Compares many stored orders with few: how the ratio to the bare loop, which stores none, has changed."""
    found = []
    groups = experiment.groups()
    for variant in dict.fromkeys(variant for variant, _ in groups):
        steps = sorted(stored for name, stored in groups if name == variant and stored is not None)
        if len(steps) < 2:
            continue
        few, many = groups[variant, steps[0]], groups[variant, steps[-1]]
        for value, aim, at_least in (("throughput", 1 - FLAT, True), ("p50", 1 + FLAT, False)):
            before, after = experiment.ratios(few, value), experiment.ratios(many, value)
            if before and after:
                change = after.median / before.median
                reached = change >= aim if at_least else change <= aim
                what = f"{variant}: {value} with {steps[-1]:,} stored is {change:.2f} of that with {steps[0]:,}"
                found.append(Verdict(what, change, f"{'≥' if at_least else '≤'} {aim:.2f}", reached))
    return found


def tracing_verdicts(experiment: Experiment) -> list[Verdict]:
    """Compares tracing on with tracing off."""
    found = []
    for (variant, _), pairs in experiment.groups().items():
        if ratio := experiment.ratios(pairs, "throughput"):
            aim = 1 - TRACING
            what = f"{variant}: throughput with tracing is {ratio.median:.2f} of that without"
            found.append(Verdict(what, ratio.median, f"≥ {aim:.2f}", ratio.median >= aim))
        on, off = pooled(pairs, experiment.over, 99), pooled(pairs, experiment.under, 99)
        if on and off:
            aim = 1 + TRACING
            what = f"{variant}: p99 with tracing is {on / off:.2f} of that without"
            found.append(Verdict(what, on / off, f"≤ {aim:.2f}", on / off <= aim))
    return found


VERDICTS: Final[dict[str, Callable[[Experiment], list[Verdict]]]] = {
    "compare": compare_verdicts,
    "stored": stored_verdicts,
    "tracing": tracing_verdicts,
}


def as_json(about: dict[str, Any], experiments: Sequence[Experiment]) -> dict[str, Any]:
    """The whole run: circumstances, every pair of every round with its raw latencies, summaries, verdicts."""
    return about | {
        "experiments": [
            {
                "name": experiment.name,
                "ratios_are": f"{experiment.over} / {experiment.under}",
                "summary": [_summary(experiment, *group) for group in experiment.groups().items()],
                "verdicts": [asdict(verdict) for verdict in VERDICTS[experiment.name](experiment)],
                "problems": experiment.problems,
                "notes": experiment.notes,
                "rounds": [_pair(experiment, pair) for pair in experiment.pairs],
            }
            for experiment in experiments
        ]
    }


def _summary(experiment: Experiment, key: tuple[str, int | None], pairs: list[PairResult]) -> dict[str, Any]:
    variant, stored = key
    found: dict[str, Any] = {"variant": variant, "stored": stored, "rounds": len(pairs)}
    for side in (experiment.over, experiment.under):
        found[side] = {value: _plain(of_side(pairs, side, value)) for value in VALUES} | {
            f"p{percent}_of_all_rounds": pooled(pairs, side, percent) for percent in (50, 95, 99)
        }
    found["ratios"] = {value: _plain(experiment.ratios(pairs, value)) for value in VALUES}
    return found


def _plain(found: Spread | None) -> dict[str, Any] | None:
    return asdict(found) if found else None


def _pair(experiment: Experiment, pair: PairResult) -> dict[str, Any]:
    ratios = {name: pair.ratio(value, experiment.over, experiment.under)[:1] for name, value in VALUES.items()}
    return asdict(pair) | {"ratios": {name: found[0] if found else None for name, found in ratios.items()}}
