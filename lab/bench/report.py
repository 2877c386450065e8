"""What a run looks like in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lab.bench.results import VERDICTS, Experiment, PairResult, of_side, pooled
from lab.stats import Spread, median, spread

_TITLES: Final = {
    "compare": "orderflow against the bare loop",
    "stored": "few and many orders stored",
    "tracing": "with and without tracing",
}
_BUSY: Final = 0.2
"""Cores used by others from which a run is no quiet one."""


def show(console: Console, about: dict[str, Any], experiments: Sequence[Experiment]) -> None:
    """Tables, verdicts, and what was odd."""
    machine, versions = about["machine"], about["versions"]
    console.print(
        f"\n[dim]{machine['cores']} cores, {escape(str(machine['processor']))}; load before {machine['load_before']}; "
        f"Python {versions['python']}, LocalStack {versions['localstack']}, PostgreSQL {versions['postgresql']}, "
        f"boto3 {versions['boto3']}; seed {about['settings']['seed']}[/]"
    )
    for experiment in experiments:
        rounds = max((pair.round for pair in experiment.pairs), default=0)
        console.print(f"\n[bold]{_TITLES[experiment.name]}[/] [dim]{rounds} paired rounds; medians, lowest-highest[/]")
        if not experiment.pairs:
            console.print("  [red]Nothing could be measured.[/]")
        else:
            console.print(_figures(experiment))
            console.print(_cpu(experiment))
            _verdicts(console, experiment)
        for note in [*experiment.notes, *_idle(experiment)]:
            console.print(f"  [dim]{escape(note)}[/]", soft_wrap=True)
        for problem in [*experiment.problems, *_odd(experiment)]:
            console.print(f"  [yellow]![/] {escape(problem)}", soft_wrap=True)


def _figures(experiment: Experiment) -> Table:
    table = _table("orders/s", "p50 ms", "p95 ms", "p99 ms", "calls/order", "one at a time", "CPU ms/order")
    for key, pairs in experiment.groups().items():
        table.add_row(Text(_name(*key), "bold"))
        for side in (experiment.under, experiment.over):
            table.add_row(
                f"  {side}",
                _spread(of_side(pairs, side, "throughput"), 1),
                _spread(of_side(pairs, side, "p50"), 1),
                *(_number(pooled(pairs, side, percent), 1) for percent in (95, 99)),
                _spread(of_side(pairs, side, "calls"), 2),
                _spread(of_side(pairs, side, "calls_single"), 1),
                _spread(of_side(pairs, side, "cpu"), 1),
            )
        tails = [(pooled(pairs, experiment.over, p), pooled(pairs, experiment.under, p)) for p in (95, 99)]
        table.add_row(
            "  ratio",
            _spread(experiment.ratios(pairs, "throughput"), 2),
            _spread(experiment.ratios(pairs, "p50"), 2),
            *(_number(over / under if over and under else None, 2) for over, under in tails),
            _spread(experiment.ratios(pairs, "calls"), 2),
            _spread(experiment.ratios(pairs, "calls_single"), 2),
            _spread(experiment.ratios(pairs, "cpu"), 2),
            style="cyan",
        )
    return table


def _cpu(experiment: Experiment) -> Table:
    """CPU by process. The bare loop's processes stand in the column of the service that each stands for."""
    names: dict[str, None] = {}
    for pair in experiment.pairs:
        for measured in pair.sides.values():
            names |= dict.fromkeys(name.removeprefix("bare-") for name in measured.cpu)
    table = _table(*names)
    table.title = "CPU ms an order by process, at saturation"
    for key, pairs in experiment.groups().items():
        table.add_row(Text(_name(*key), "bold"))
        for side in (experiment.under, experiment.over):
            table.add_row(f"  {side}", *(_number(_median_cpu(pairs, side, name), 1) for name in names))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title_justify="left", title_style="dim")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _median_cpu(pairs: Sequence[PairResult], side: str, name: str) -> float | None:
    found = [
        value for pair in pairs for known, value in pair.sides[side].cpu.items() if known.removeprefix("bare-") == name
    ]
    return median(found) if found else None


def _verdicts(console: Console, experiment: Experiment) -> None:
    for verdict in VERDICTS[experiment.name](experiment):
        mark = Text("✓ ", "bold green") if verdict.reached else Text("✗ ", "bold red")
        line = Text.assemble("  ", mark, f"{verdict.what}: ", (f"{verdict.value:.2f}", "bold"))
        line.append(f"  (aim {verdict.aim})", "dim")
        console.print(line, soft_wrap=True)


def _idle(experiment: Experiment) -> list[str]:
    """What each side's processes used while the other one was measured."""
    return [
        f"beside {side}, the other side's idle processes used {idle.median:.2f} cores"
        for side in (experiment.under, experiment.over)
        if (idle := spread([pair.sides[side].bystanders for pair in experiment.pairs]))
    ]


def _odd(experiment: Experiment) -> list[str]:
    """What a reader has to know before believing the figures."""
    found = []
    everybody = [measured for pair in experiment.pairs for measured in pair.sides.values()]
    busy = median([measured.others for measured in everybody]) if everybody else 0.0
    if busy > _BUSY:
        found.append(f"the machine was not quiet: others used {busy:.1f} cores (median); only ratios mean anything")
    for what, count in (
        ("never ended", sum(measured.unfinished for measured in everybody)),
        ("were not confirmed", sum(measured.refused for measured in everybody)),
        ("requests failed", sum(len(measured.errors) for measured in everybody)),
    ):
        if count:
            found.append(f"{count} orders {what}" if "requests" not in what else f"{count} {what}")
    return found


def _name(variant: str, stored: int | None) -> str:
    return variant if stored is None else f"{variant}, {stored:,} stored"


def _spread(found: Spread | None, digits: int) -> Text:
    """The median; below it the range."""
    if found is None:
        return Text("-")
    text = Text(f"{found.median:.{digits}f}")
    if found.count > 1:
        text.append(f"\n{found.low:.{digits}f}-{found.high:.{digits}f}", "dim")
    return text


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
