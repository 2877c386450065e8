"""Shows a run's results on a terminal."""

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
_WIDE: Final = 118
"""Terminal columns from which everything fits."""
_BUSY: Final = 0.2
"""If others use this many cores, the machine was not quiet."""


def show(console: Console, about: dict[str, Any], experiments: Sequence[Experiment]) -> None:
    """Shows the tables, the verdicts, and warnings."""
    machine, versions = about["machine"], about["versions"]
    console.print(
        f"\n[dim]{machine['cores']} cores, {escape(str(machine['processor']))}; load before {machine['load_before']}; "
        f"Python {versions['python']}, LocalStack {versions['localstack']}, PostgreSQL {versions['postgresql']}, "
        f"boto3 {versions['boto3']}; seed {about['settings']['seed']}[/]",
        soft_wrap=True,
    )
    for experiment in experiments:
        rounds = max((pair.round for pair in experiment.pairs), default=0)
        console.print(f"\n[bold]{_TITLES[experiment.name]}[/] [dim]medians and ranges of {rounds} paired rounds[/]")
        if not experiment.pairs:
            console.print("  [red]Nothing could be measured.[/]")
        else:
            wide = console.width >= _WIDE
            console.print(_figures(experiment, wide))
            console.print(_cpu(experiment) if wide else "  [dim]more in a wider terminal, and in the JSON[/]")
            _verdicts(console, experiment)
        for note in [*experiment.notes, *_idle(experiment)]:
            console.print(f"  [dim]{escape(note)}[/]", soft_wrap=True)
        for problem in [*experiment.problems, *_odd(experiment)]:
            console.print(f"  [yellow]![/] {escape(problem)}", soft_wrap=True)


def _figures(experiment: Experiment, wide: bool) -> Table:
    percents = (95, 99) if wide else (99,)
    more = ("one at a time", "CPU ms/order") if wide else ()
    table = _table("orders/s", "p50 ms", *(f"p{percent} ms" for percent in percents), "calls/order", *more)
    digits = {"throughput": 1, "p50": 1, "calls": 2} | ({"calls_single": 1, "cpu": 1} if wide else {})
    for key, pairs in experiment.groups().items():
        name = _name(*key)
        table.add_row(Text(name if wide else name.replace("/", "/\n"), "bold"))
        for side in (experiment.under, experiment.over):
            cells = [_spread(of_side(pairs, side, value), places) for value, places in digits.items()]
            cells[2:2] = [_number(pooled(pairs, side, percent), 1) for percent in percents]
            table.add_row(f"  {side}", *cells)
        cells = [_spread(experiment.ratios(pairs, value), 2) for value in digits]
        cells[2:2] = [_number(_tail_ratio(experiment, pairs, percent), 2) for percent in percents]
        table.add_row("  ratio", *cells, style="cyan")
    return table


def _tail_ratio(experiment: Experiment, pairs: Sequence[PairResult], percent: float) -> float | None:
    over, under = pooled(pairs, experiment.over, percent), pooled(pairs, experiment.under, percent)
    return over / under if over and under else None


def _cpu(experiment: Experiment) -> Table:
    """CPU by process. Each process of the bare loop is in the column of the service that it replaces."""
    names: dict[str, None] = {}
    for pair in experiment.pairs:
        for measured in pair.sides.values():
            names |= dict.fromkeys(name.removeprefix("bare-") for name in measured.cpu)
    table = _table(*names)
    table.title = "CPU ms per order by process, at saturation"
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
        line = Text.assemble("  ", mark, verdict.what)
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
    """What a reader must know before trusting the figures."""
    found = []
    everybody = [measured for pair in experiment.pairs for measured in pair.sides.values()]
    busy = median([measured.others for measured in everybody]) if everybody else 0.0
    if busy > _BUSY:
        found.append(f"the machine was not quiet: others used {busy:.1f} cores (median); only ratios are meaningful")
    for what, count in (
        ("never ended", sum(measured.unfinished for measured in everybody)),
        ("were not confirmed", sum(measured.refused for measured in everybody)),
        ("requests failed", sum(len(measured.errors) for measured in everybody)),
    ):
        if count:
            found.append(f"{count} orders {what}" if "requests" not in what else f"{count} {what}")
    return found


def _name(variant: str, stored: int | None) -> str:
    return variant if stored is None else f"{variant}\n{stored:,} stored"


def _spread(found: Spread | None, digits: int) -> Text:
    """The median; below it the range."""
    if found is None:
        return Text("-")
    text = Text(f"{found.median:.{digits}f}")
    if found.count > 1:
        text.append(f"\n{found.low:.{digits}f}-{found.high:.{digits}f}", "dim")
    return text


def _number(value: float | None, digits: int) -> Text:
    return Text("-" if value is None else f"{value:.{digits}f}")
