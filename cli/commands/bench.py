"""`orderflow bench`: measures orderflow against the bare loop, on a system of its own."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli.options import BusOption, WorkflowOption, one_of
from cli.views import common, lifecycle
from lab import observe
from lab.bare.side import BareLoop
from lab.bench import report
from lab.bench.about import about
from lab.bench.experiments import Bench
from lab.bench.plan import Effort
from lab.bench.results import as_json
from lab.bench.system import LOGS_OF_FAILURE, SPANS, BenchSystem, alone, receiver, running
from lab.lines import LabProblem
from lab.load.side import Orderflow
from lab.workload import Variant, variants
from runtime import RuntimeProblem

QUICK: Final = Effort(rounds=2, seconds=2.0, orders=15, minutes=10)
_SHORT_POLL: Final = 3
"""The long poll, in seconds, where services are restarted. LocalStack continues the long polls of processes that have
ended, and delivers messages to them."""


def bench(
    workflow: WorkflowOption = None,
    bus: BusOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two short rounds: a preview, not a measurement.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Paired rounds. Default: 5.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.5, help="Seconds at saturation, per side and round. Default: 6.")
    ] = None,
    orders: Annotated[
        int | None, typer.Option(min=1, help="Orders placed one at a time, per side and round. Default: 40.")
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Orders in flight at saturation.")] = Effort().in_flight,
    clients: Annotated[int, typer.Option(min=1, help="HTTP connections of the load generator.")] = 8,
    stored: Annotated[
        int | None, typer.Option(min=2000, help="Measure with 1,000 and with this many orders stored.")
    ] = None,
    tracing: Annotated[bool, typer.Option("--tracing", help="Measure with and without tracing.")] = False,
    spans: Annotated[
        str | None,
        typer.Option(**one_of(*SPANS, metavar="WHERE", text="What receives spans. Default: jaeger if on PATH.")),
    ] = None,
    every_order: Annotated[
        bool, typer.Option("--every-order", help="With --tracing: trace every order, not a sample under load.")
    ] = False,
    compare: Annotated[
        bool | None,
        typer.Option(
            "--compare/--no-compare", help="Against the bare loop; the default unless another experiment is chosen."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the order of measurements. Default: a new one.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=1, help="No round begins after this many minutes. Default: 45.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Where to write the results; - is standard output.")
    ] = None,
) -> None:
    """Measure orderflow against the bare loop: the same messages by plain boto3 processes that guarantee nothing.

    It starts a system of its own, beside a running one, and measures pairs over several rounds in shuffled order. Only
    ratios within one run are meaningful: see docs/benchmark.md. Run it on a quiet machine; it says if others used it.

    \b
    orderflow bench                                       every workflow, about a quarter of an hour
    orderflow bench --quick --workflow choreography       a preview, under two minutes
    orderflow bench --stored 100000 --workflow orchestration
    orderflow bench --tracing --bus sns
    orderflow bench --tracing --every-order --bus sns
    """
    base = QUICK if quick else Effort()
    effort = Effort(rounds or base.rounds, seconds or base.seconds, orders or base.orders, in_flight,
                    minutes or base.minutes)  # fmt: skip
    chosen = variants(workflow, bus)
    machine = observe.machine()
    seed = random.randrange(1_000_000) if seed is None else seed
    console = common.console()
    console.stderr = json_file == "-"
    compare = not (stored or tracing) if compare is None else compare
    if not (compare or stored or tracing):
        raise RuntimeProblem("These options leave nothing to measure.", "Leave --no-compare out.")
    for option, given in (("--every-order", every_order), ("--spans", spans)):
        if given and not tracing:
            raise RuntimeProblem(f"{option} has no effect without --tracing.", "Add --tracing, or leave it out.")
    settings = {"LONG_POLL": str(_SHORT_POLL)} if tracing else {}
    settings |= {"OTEL_TRACES_SAMPLER": "parentbased_always_on"} if every_order else {}
    with (
        alone(),
        running(
            settings, receiver(spans) if tracing else None, lifecycle.progress(console), console.status("Stopping …")
        ) as system,
        ExitStack() as sides,
    ):
        _say_how_long(console, effort, chosen, compare=compare, stored=bool(stored), tracing=tracing)
        try:
            circumstances = about(system, machine) | {
                "settings": {
                    "seed": seed, "rounds": effort.rounds, "seconds": effort.seconds, "orders": effort.orders,
                    "in_flight": {v.name: effort.in_flight_of(v) for v in chosen}, "clients": clients,
                    "services": system.settings,
                }
            }  # fmt: skip
            orderflow = Orderflow(system, clients=clients)
            sides.callback(orderflow.close)
            bare = BareLoop(system, long_poll=system.long_poll)
            sides.callback(bare.close)
            run = Bench(orderflow, bare, effort, seed, lambda: {**bare.pids(), **orderflow.pids()})
            try:
                _measure(console, run, system, chosen, compare=compare, stored=stored, tracing=tracing)
            except KeyboardInterrupt:
                run.interrupted()
                raise
            finally:
                _conclude(console, circumstances, run, json_file)
        except LabProblem as problem:
            raise RuntimeProblem(str(problem), f"See the logs in {LOGS_OF_FAILURE}.") from problem
    if not any(experiment.pairs for experiment in run.experiments):
        raise typer.Exit(1)


def _measure(
    console: Console, run: Bench, system: BenchSystem, chosen: list[Variant],
    *, compare: bool, stored: int | None, tracing: bool,
) -> None:  # fmt: skip
    if compare:
        with _progress(console, "bare loop") as progress:
            run.compare(chosen, progress)
    if stored:
        with _progress(console, "stored orders") as progress:
            run.stored(chosen, system, stored, progress)
    if tracing:
        with _progress(console, "tracing") as progress:
            run.tracing(chosen, system, progress)


def _conclude(console: Console, circumstances: dict[str, Any], run: Bench, json_file: str | None) -> None:
    report.show(console, circumstances, run.experiments)
    found = as_json(circumstances, run.experiments)
    if json_file == "-":
        common.print_json(found)
        return
    path = Path(json_file or f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json")
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    console.print(f"\nEvery round: {path}", soft_wrap=True)


@contextmanager
def _progress(console: Console, title: str) -> Iterator[Any]:
    """Yields a `report(done, total, doing)`: a progress bar, or plain lines without a terminal."""
    if not console.is_terminal:
        yield lambda done, total, doing: console.print(f"{title}: {done}/{total} {doing}")
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(),
               TimeElapsedColumn(), TextColumn("[dim]{task.fields[doing]}"))  # fmt: skip
    # Refresh rarely: on two cores, drawing the bar would influence the measurement.
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task(title, total=1, doing="")
        yield lambda done, total, doing: bar.update(task, completed=done, total=total, doing=doing)


def _say_how_long(
    console: Console, effort: Effort, chosen: list[Variant], *, compare: bool, stored: bool, tracing: bool
) -> None:
    one = 2 * sum(effort.about(variant) for variant in chosen)
    seconds = effort.rounds * one * (compare + 2 * stored) + effort.rounds * (one + 24) * tracing + 120 * stored
    console.print(
        f"\n{', '.join(v.name for v in chosen)}; {effort.rounds} rounds, about {max(1, round(seconds / 60))} minutes, "
        f"at most {effort.minutes:g}"
    )
