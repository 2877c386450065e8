"""Shows the demo: each order as it moves, then one table of all orders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.views import common
from cli.views.watch import MARGIN, row, waiting
from client import cost
from client.timeline import OrderTimeline, lanes_of
from diagrams.lanes import Lanes, legend
from diagrams.model import decider
from orderflow.contracts import Workflow

if TYPE_CHECKING:
    from cli.commands.demo import Run


class Stage:
    """Shows runs one after the other. `quiet`: only one line per run, at its end."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._lanes = Lanes(("order",), 80)

    def workflow(self, workflow: str, event_bus: str) -> None:
        """Announces that the next runs use this workflow."""
        name = Workflow(workflow)
        self._lanes = Lanes(lanes_of(name), self._console.width, MARGIN)
        self._console.print()
        title = Text.assemble(
            (common.mode(workflow, event_bus), "bold reverse"), f"  {decider(name)} decides what's next"
        )
        self._console.print(title)
        if not self._quiet:
            for line in self._lanes.head():
                self._console.print(line, soft_wrap=True)

    def scenario(self, name: str, what: str) -> None:
        """Announces the next run."""
        self._console.print(Text.assemble(("▸ ", "bold"), (name, "bold"), (f"  {what}", "dim")))

    def follow(self, timelines: Iterator[OrderTimeline]) -> None:
        """Shows one order until it is terminal."""
        if self._quiet:
            for _ in timelines:
                pass
        elif self._console.is_terminal:
            self._live(timelines)
        else:
            self._plain(timelines)

    def result(self, run: Run) -> None:
        """Shows one line about a run that has been checked."""
        timeline = run.timeline
        text = Text("" if self._quiet else "  ")
        text.append("✗ " if run.broken else "✓ ", "bold red" if run.broken else "bold green")
        text.append_text(common.status(timeline.order["status"]))
        text.append(f" after {common.milliseconds(timeline.took)}")
        if timeline.order.get("reason"):
            text.append(f": {timeline.order['reason']}")
        if run.undone:
            text.append(f"; compensated: {', '.join(run.undone)}")
        text.append(f"; {timeline.messages} messages, {run.cost.total} calls", "dim")
        self._console.print(text)
        for what in run.broken:
            self._console.print(Text(f"    {what}", "red"))

    def _live(self, timelines: Iterator[OrderTimeline]) -> None:
        rows: list[Text] = []
        with Live(console=self._console, transient=True, auto_refresh=False) as live:
            for timeline in timelines:
                rows = _rows(self._lanes, timeline)
                shown = rows[-max(3, self._console.height - 4) :]
                waits = [] if timeline.done else [waiting(wait, MARGIN) for wait in timeline.waiting]
                live.update(Group(*shown, *waits), refresh=True)
        for line in rows:
            self._console.print(line, no_wrap=True, overflow="ellipsis")

    def _plain(self, timelines: Iterator[OrderTimeline]) -> None:
        *_, last = timelines
        for line in _rows(self._lanes, last):
            self._console.print(line, soft_wrap=True)


def _rows(lanes: Lanes, timeline: OrderTimeline) -> list[Text]:
    return [row(lanes, moment, str(timeline.order.get("reason") or "")) for moment in timeline.moments]


def summary(console: Console, runs: Sequence[Run], seconds: float) -> None:
    """The table of all runs, and how its numbers were found."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold underline", pad_edge=False)
    table.add_column("workflow, scenario", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("undone", no_wrap=True)
    for column in ("messages", "received", "AWS calls", "latency"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    group = ""
    for run in runs:
        title = common.mode(run.workflow, run.event_bus)
        if title != group:
            if group:
                table.add_row()
            table.add_row(Text(title, "bold"))
            group = title
        about = "≈" if run.disturbed else ""
        table.add_row(
            f"  {run.scenario.name}",
            common.status(run.timeline.order["status"]),
            ", ".join(run.undone) or Text("nothing", "dim"),
            str(run.timeline.messages),
            f"{about}{run.cost.deliveries}",
            f"{about}{run.cost.total}",
            common.milliseconds(run.timeline.took),
            Text("✗", "bold red") if run.broken else Text("✓", "bold green"),
        )
    console.print("\n")
    console.print(table)
    _footnotes(console, runs, seconds)


def _footnotes(console: Console, runs: Sequence[Run], seconds: float) -> None:
    wrong = [run for run in runs if run.broken]
    notes = [
        "✓: the order ended as it must; the payment provider's and the carrier's ledgers show one charge and one "
        "shipment if it is CONFIRMED, and nothing left over if not; the stock changed by exactly that.",
        "Messages: distinct message ids in the order's timeline. It holds every event and command that is sent, but "
        "not what a service does on its own. Received: by the services, an event once per "
        "listener; messages that a state machine receives are not counted.",
        cost.NOTE,
        "Latency: from acceptance to the order service's decision, by the database's clock, of one order each: "
        "`make bench` measures.",
    ]
    if any(run.disturbed for run in runs):
        notes.append("≈: other orders were placed meanwhile; the number includes their messages and calls.")
    console.print()
    for note in notes:
        console.print(Text(note, "dim"))
    console.print(legend())
    console.print()
    if wrong:
        console.print(f"[bold red]✗ {len(wrong)} of {len(runs)} orders broke a promise[/] ({seconds:.0f} s):")
        for run in wrong:
            name = f"{common.mode(run.workflow, run.event_bus)}, {run.scenario.name}, {run.timeline.id}"
            console.print(Text(f"  {name}: {'; '.join(run.broken)}"))
    else:
        console.print(f"[bold green]✓ All {len(runs)} orders kept every promise[/] in {seconds:.0f} s.")
    console.print("Next: [bold]orderflow order place --watch[/], [bold]orderflow workflow show[/]")
