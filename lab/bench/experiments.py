"""The three experiments: against the bare loop, with many stored orders, with and without tracing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from lab.bench import fill
from lab.bench.measure import Measured, Meter
from lab.bench.plan import Effort, Pair, schedule
from lab.bench.results import Experiment, PairResult
from lab.lines import LabProblem
from lab.system import Side, System, Traceable
from lab.workload import Variant

Report = Callable[[int, int, str], None]
"""`report(done, total, doing)`: how many of an experiment's measurements are done, and which one begins now."""

_FEW: Final = 1_000
_TRIES: Final = 2
"""Failures after which a variant is left out of the rest of an experiment."""


class Bench:
    """Runs experiments on one system, one after the other."""

    def __init__(
        self, orderflow: Side, bare: Side, effort: Effort, seed: int, others: Callable[[], Mapping[str, int]]
    ) -> None:
        self._sides = {"orderflow": orderflow, "bare": bare}
        self._effort = effort
        self._rng = random.Random(seed)
        self._meter = Meter(effort, others)
        self.experiments: list[Experiment] = []
        """All results so far, even if a run is interrupted."""
        self._ends = time.monotonic() + effort.minutes * 60

    def compare(self, variants: Sequence[Variant], report: Report) -> None:
        """orderflow and the bare loop, in pairs."""
        experiment = self._new("compare", over="orderflow", under="bare")
        self._warm_up(variants, experiment, report)
        self._pairs(experiment, self._schedule(variants), report)

    def stored(self, variants: Sequence[Variant], system: System, most: int, report: Report) -> None:
        """The same pairs, with few and many orders stored. The bare loop stores none: it shows the machine's drift."""
        experiment = self._new("stored", over="orderflow", under="bare")
        self._warm_up(variants, experiment, report)
        steps = (_FEW, most)
        total = sum(len(self._schedule(variants)) for _ in steps) * 2
        for number, step in enumerate(steps):
            offset = number * total // len(steps)
            experiment.notes.append(
                fill.fill(system, step, lambda text, offset=offset: report(offset, total, f"storing {text}"))  # type: ignore[misc]
            )
            pairs = self._schedule(variants)
            self._pairs(experiment, pairs, lambda done, _, doing, offset=offset: report(offset + done, total, doing),  # type: ignore[misc]
                        stored=step)  # fmt: skip
        experiment.notes.append(f"{fill.stored(system):,} orders stored at the end: those measured are kept")

    def tracing(self, variants: Sequence[Variant], system: Traceable, report: Report) -> None:
        """orderflow with and without tracing, in pairs: the services are restarted in between."""
        experiment = self._new("tracing", over="traced", under="untraced")
        experiment.notes.append(f"spans went to {system.spans_go_to}")
        total = self._effort.rounds * 2 * len(variants)
        done = 0
        for number in range(1, self._effort.rounds + 1):
            if self._over(experiment, number):
                break
            found: dict[str, dict[str, Measured]] = {variant.name: {} for variant in variants}
            order = self._rng.sample(("traced", "untraced"), 2)
            shuffled = self._rng.sample(list(variants), len(variants))
            for state in order:
                report(done, total, f"round {number}: services start {state}")
                system.trace(on=state == "traced")
                for variant in shuffled:
                    report(done, total, f"round {number}: {variant.name} {state}")
                    try:
                        self._meter.warm_up(self._sides["orderflow"], variant)
                        found[variant.name][state] = self._meter.measure(self._sides["orderflow"], variant)
                    except LabProblem as problem:
                        experiment.problems.append(f"round {number}: {problem}")
                    done += 1
            for name, sides in found.items():
                if len(sides) == 2:
                    experiment.pairs.append(PairResult(number, name, (order[0], order[1]), sides))
        report(total, total, "done")

    def interrupted(self) -> None:
        """Records in the results that the run was interrupted."""
        for experiment in self.experiments[-1:]:
            experiment.problems.append("interrupted: these are the rounds until then")

    def _new(self, name: str, over: str, under: str) -> Experiment:
        self.experiments.append(Experiment(name, over, under))
        return self.experiments[-1]

    def _schedule(self, variants: Sequence[Variant]) -> list[Pair]:
        return schedule(variants, self._effort.rounds, ("bare", "orderflow"), self._rng)

    def _warm_up(self, variants: Sequence[Variant], experiment: Experiment, report: Report) -> None:
        for number, variant in enumerate(variants):
            for side in self._sides.values():
                report(0, 1, f"warming up {number + 1} of {len(variants)}: {variant.name}, {side.name}")
                try:
                    self._meter.warm_up(side, variant)
                except LabProblem as problem:
                    experiment.problems.append(f"warming up: {problem}")

    def _pairs(self, experiment: Experiment, pairs: Sequence[Pair], report: Report, stored: int | None = None) -> None:
        failures: dict[Variant, int] = {}
        total = len(pairs) * 2
        for number, pair in enumerate(pairs):
            if self._over(experiment, pair.round):
                break
            if failures.get(pair.variant, 0) >= _TRIES:
                continue
            sides: dict[str, Measured] = {}
            try:
                for i, name in enumerate(pair.sides):
                    report(number * 2 + i, total, f"round {pair.round}: {pair.variant.name}, {name}")
                    sides[name] = self._meter.measure(self._sides[name], pair.variant)
            except LabProblem as problem:
                failures[pair.variant] = failures.get(pair.variant, 0) + 1
                experiment.problems.append(f"round {pair.round}: {problem}")
                continue
            experiment.pairs.append(PairResult(pair.round, pair.variant.name, pair.sides, sides, stored))
        report(total, total, "done")

    def _over(self, experiment: Experiment, number: int) -> bool:
        over = time.monotonic() > self._ends
        if over:
            experiment.problems.append(
                f"stopped in round {number}: {self._effort.minutes:g} minutes were over (--minutes)"
            )
        return over
