"""`orderflow bench`: measures orderflow against the bare loop, on a system of its own."""

from __future__ import annotations

import fcntl
import json
import random
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli import lifecycle_view, views
from cli.choices import BusOption, WorkflowOption, one_of
from cli.runtime import EmbeddedRuntime, RuntimeProblem
from cli.runtime.home import PROJECT
from cli.runtime.plan import PORTS, Plan
from cli.runtime.postgres import Postgres
from cli.runtime.programs import Program
from lab import observe
from lab.bare.side import BareLoop
from lab.bench import report
from lab.bench.about import about
from lab.bench.experiments import Bench
from lab.bench.plan import Effort
from lab.bench.results import as_json
from lab.lines import Child, LabProblem
from lab.load.side import Orderflow
from lab.workload import Variant, variants
from orderflow.routing import SERVICES

HOME: Final = PROJECT / ".orderflow" / "bench"
QUICK: Final = Effort(rounds=2, seconds=2.0, orders=15, minutes=10)
_SHORT_POLL: Final = 3
"""Seconds, where services are started anew: LocalStack goes on with the long polls of those that have gone, and hands
them messages."""
_SPANS: Final = ("jaeger", "sink")


def bench(
    workflow: WorkflowOption = None,
    bus: BusOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two short rounds: a look, no measurement.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Paired rounds. Default: 5.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.5, help="Measured at saturation, a side and round. Default: 6.")
    ] = None,
    orders: Annotated[int | None, typer.Option(min=1, help="One at a time, a side and round. Default: 40.")] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Orders under way at saturation.")] = Effort().in_flight,
    clients: Annotated[int, typer.Option(min=1, help="HTTP connections of the load generator.")] = 8,
    stored: Annotated[
        int | None, typer.Option(min=2000, help="Measure with 1,000 and with this many orders stored.")
    ] = None,
    tracing: Annotated[bool, typer.Option("--tracing", help="Measure with and without tracing.")] = False,
    spans: Annotated[
        str | None,
        typer.Option(**one_of(*_SPANS, metavar="WHERE", text="What receives spans. Default: jaeger if on PATH.")),
    ] = None,
    compare: Annotated[
        bool | None,
        typer.Option("--compare/--no-compare", help="Against the bare loop; by default unless others are asked for."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of measurements. Default: a new one.")] = None,
    minutes: Annotated[float | None, typer.Option(min=1, help="No round begins later. Default: 45.")] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Where results go; - is standard output.")
    ] = None,
) -> None:
    """Measure orderflow against the bare loop: the same messages by plain boto3 processes that guarantee nothing.

    On a system of its own, beside a running one; several rounds, in pairs, in shuffled order. Ratios within one run
    are what counts: docs/benchmark.md. Best on a quiet machine: it says so if others used it.

    \b
    orderflow bench                                       every workflow, about a quarter of an hour
    orderflow bench --quick --workflow choreography       a look, under two minutes
    orderflow bench --stored 100000 --workflow orchestration
    orderflow bench --tracing --bus sns
    """
    base = QUICK if quick else Effort()
    effort = Effort(rounds or base.rounds, seconds or base.seconds, orders or base.orders, in_flight,
                    minutes or base.minutes)  # fmt: skip
    chosen = variants(workflow, bus)
    machine = observe.machine()
    seed = random.randrange(1_000_000) if seed is None else seed
    console = Console(stderr=True, highlight=False) if json_file == "-" else views.console()
    compare = not (stored or tracing) if compare is None else compare
    if not (compare or stored or tracing):
        raise RuntimeProblem("There is nothing left to measure.", "Leave --no-compare out.")
    settings = {"LONG_POLL": str(_SHORT_POLL)} if tracing else {}
    with _alone(), _running(console, settings, _receiver(spans) if tracing else None) as system, ExitStack() as sides:
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
            finally:  # also what was found before Ctrl-C
                _conclude(console, circumstances, run, json_file)
        except LabProblem as problem:
            raise RuntimeProblem(str(problem), f"See the logs in {HOME / 'logs'}.") from problem
    if not any(experiment.pairs for experiment in run.experiments):
        raise typer.Exit(1)


class BenchRuntime(EmbeddedRuntime):
    """The embedded runtime, with Jaeger only where its part in it is measured."""

    jaeger = False

    def _programs(self, plan: Plan, postgres: Postgres) -> list[Program]:
        return [p for p in super()._programs(plan, postgres) if self.jaeger or p.name != "jaeger"]


class BenchSystem:
    """See `lab.system.Traceable`. Services run with their default settings, whatever the user's are."""

    def __init__(self, settings: Mapping[str, str], receiver: str | None) -> None:
        self._ports = _free_ports()
        self.settings = dict(settings)
        self._receiver = receiver
        self._sink: Child | None = None
        self.runtime = self._runtime(tracing=False)
        self.folder = self.runtime.home.logs

    @property
    def long_poll(self) -> int:
        return int(self.settings.get("LONG_POLL", "20"))

    @property
    def spans_go_to(self) -> str:
        return {"jaeger": "Jaeger on this machine", "sink": "a sink that throws them away"}.get(
            self._receiver or "", "-"
        )

    def url(self, part: str) -> str:
        return self.runtime.plan.url(part)

    def database(self, name: str) -> str:
        service, variable = ("payment", "PROVIDERS_DATABASE_URL") if name == "providers" else (name, "DATABASE_URL")
        return self.runtime.env(service)[variable]

    def pids(self) -> Mapping[str, int]:
        names = ("localstack", "postgres", *SERVICES, *(["jaeger"] if self.runtime.jaeger else []))
        return {name: pid for name in names if (pid := self.runtime.pid(name))}

    def trace(self, on: bool) -> None:
        if on and self._receiver == "sink" and self._sink is None:
            self._sink = Child("sink", "lab.sink", [self._ports["OTLP_HTTP_PORT"]], self.folder / "sink.log")
            self._sink.ask("received")
        self.runtime = self._runtime(tracing=on)
        self.runtime.up()
        time.sleep(self.long_poll + 1)  # what was polling before has given up, and swallows nothing any more

    def close(self) -> None:
        """Ends everything and deletes its data, but not its logs' folder."""
        if self._sink is not None:
            self._sink.end()
        self.runtime.reset()

    def _runtime(self, *, tracing: bool) -> BenchRuntime:
        overrides = {}
        if self._receiver == "sink":
            endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._ports['OTLP_HTTP_PORT']}"}
            overrides = dict.fromkeys(SERVICES, endpoint)
        switch = {"OTEL_SDK_DISABLED": "false" if tracing else "true"}
        made = BenchRuntime(HOME, {**self._ports, **self.settings, **switch}, overrides)
        made.jaeger = self._receiver == "jaeger"
        return made


@contextmanager
def _alone() -> Iterator[None]:
    """One bench at a time in this clone. Raises RuntimeProblem."""
    HOME.parent.mkdir(parents=True, exist_ok=True)
    with HOME.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeProblem(
                "Another bench is running; two would measure each other.", "Wait for it to end."
            ) from None
        yield


@contextmanager
def _running(console: Console, settings: Mapping[str, str], receiver: str | None) -> Iterator[BenchSystem]:
    """A fresh system; gone afterwards, however this ends."""
    system = BenchSystem(settings, receiver)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        system.runtime.reset()  # what an earlier run may have left
        system.runtime.home.make()
        with lifecycle_view.progress(console) as progress:
            system.runtime.up(progress)
        yield system
    finally:
        signal.signal(signal.SIGTERM, before)
        with console.status("Stopping …"):
            system.close()


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
        views.print_json(found)
        return
    path = Path(json_file or f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json")
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    console.print(f"\nEvery round: {path}", soft_wrap=True)


@contextmanager
def _progress(console: Console, title: str) -> Iterator[Any]:
    """Gives a `report(done, total, doing)`; plain lines without a terminal."""
    if not console.is_terminal:
        yield lambda done, total, doing: console.print(f"{title}: {done}/{total} {doing}")
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(),
               TimeElapsedColumn(), TextColumn("[dim]{task.fields[doing]}"))  # fmt: skip
    # Seldom: on two cores, what draws the bar takes part in the measurement.
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


def _receiver(asked: str | None) -> str:
    there = shutil.which("jaeger") is not None and (PROJECT / "otel" / "jaeger.yaml").exists()
    if asked == "jaeger" and not there:
        raise RuntimeProblem("There is no jaeger on PATH.", "Install it, or send spans nowhere: --spans sink")
    return asked or ("jaeger" if there else "sink")


def _free_ports() -> dict[str, str]:
    """Free ports below those that the kernel gives to clients, so that none is taken meanwhile."""
    found: dict[str, str] = {}
    names = list(PORTS)
    with ExitStack() as held:
        while len(found) < len(names):
            port = random.randrange(15000, 32000)
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            found[names[len(found)]] = str(port)
    return found
