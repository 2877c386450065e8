"""Shows the results of `up`, `status` and `logs`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from runtime import Part, Plan

_TITLES: Final[Mapping[str, str]] = {"postgres": "PostgreSQL", "localstack": "LocalStack", "jaeger": "Jaeger"}
_COLOURS: Final[Mapping[str, str]] = {"ready": "green", "failed": "bold red", "stopped": "dim"}
_WIDE: Final = 110
"""Terminal columns from which commands and their explanations fit on one line."""
_LOG_COLOURS: Final = ("cyan", "magenta", "yellow", "green", "blue", "bright_cyan", "bright_magenta")


def title(part: str) -> str:
    """A part's name, formatted for people."""
    return _TITLES.get(part, part)


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str, str, str], None]]:
    """Yields a `report(part, state, detail)` that keeps one line per part current; plain lines without a terminal."""
    lines: dict[str, tuple[str, str]] = {}
    lock = threading.Lock()
    spinner = Spinner("dots", style="cyan")

    def table() -> Table:
        grid = Table.grid(padding=(0, 2))
        with lock:
            for part, (state, detail) in lines.items():
                mark = Text("✓", "green") if state in ("ready", "cleaned") else spinner.render(time.monotonic())
                grid.add_row(mark, title(part), Text(state, _COLOURS.get(state, "yellow")), Text(detail, "dim"))
        return grid

    if not console.is_terminal:

        def plain(part: str, state: str, detail: str) -> None:
            console.print(f"{title(part)}: {state}{f' ({detail})' if detail else ''}")

        yield plain
        return

    def report(part: str, state: str, detail: str) -> None:
        with lock:
            lines[part] = (state, detail)

    with Live(console=console, get_renderable=table, refresh_per_second=12):
        yield report


def after_up(
    console: Console, plan: Plan, seconds: float, changed: Mapping[str, tuple[str, str]], was_running: bool
) -> None:
    """What has changed, and what to try next."""
    console.print()
    for name, (old, new) in changed.items():
        console.print(f"  {name}  [dim]{escape(old)}[/] → [bold]{escape(new)}[/]")
    if was_running and not changed:
        console.print("  Nothing to change: it runs with these settings already.")
    how = f"in {seconds:.1f} s" if not was_running else f"again after {seconds:.1f} s"
    console.print(f"[bold green]orderflow is ready[/] {how}: {_mode(plan)}\n")
    other = "choreography" if plan.workflow == "orchestration" else "orchestration"
    sku = "--sku BOOK-1"
    rows = (
        ("make demo", "real orders through every workflow, step by step"),
        (f"orderflow order place {sku} --watch", "place one order and watch it move"),
        (f"orderflow order place {sku} --compare", "the same order once per workflow, side by side"),
        (f"WORKFLOW_MODE={other} make up", "switch the workflow of new orders"),
        (plan.url("order") + "/docs", "the API"),
        ("make status, make logs, make down", "manage it; data is kept until make reset"),
    )
    for what, why in rows:
        command = what.replace("orderflow ", ".venv/bin/orderflow ")
        gap = " " * (56 - len(command)) if console.width >= _WIDE else "\n      "
        console.print(f"  {command}{gap}[dim]{why}[/]", soft_wrap=True)


def status(console: Console, plan: Plan, parts: Sequence[Part]) -> None:
    """The table of parts."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("part", "state", "pid", "port", "up", "url"):
        table.add_column(column, justify="right" if column in ("pid", "port", "up") else "left", no_wrap=True)
    for part in parts:
        state = Text(part.state, _COLOURS.get(part.state, "yellow"))
        pid = str(part.pid) if part.pid else ""
        table.add_row(title(part.name), state, pid, str(part.port), _duration(part.uptime), part.url)
    console.print(table)
    ready = sum(part.state == "ready" for part in parts)
    if not any(part.pid for part in parts):
        console.print("\nNothing is running. Start it: make up")
    else:
        console.print(f"\n{ready} of {len(parts)} parts ready; new orders: {_mode(plan)}")


def log_line(console: Console, part: str, line: str) -> None:
    """One log line, with its part's name in a colour of its own."""
    colour = _LOG_COLOURS[sum(part.encode()) % len(_LOG_COLOURS)]
    console.print(Text.assemble((f"{part:>12} ", colour), Text(line)), soft_wrap=True)


def follow(console: Console, logs: Mapping[str, Callable[[], str]], until: Callable[[], bool] = lambda: False) -> None:
    """Shows new lines of the `logs`, by part, until interrupted or until `until()` is true."""
    while not until():
        for part, more in logs.items():
            for line in more().splitlines():
                log_line(console, part, line)
        time.sleep(0.3)


def _mode(plan: Plan) -> str:
    bus = {"sns": "SNS", "eventbridge": "EventBridge"}.get(plan.event_bus, plan.event_bus)
    return f"workflow [bold]{plan.workflow}[/], events over [bold]{bus}[/]"


def _duration(seconds: float) -> str:
    if not seconds:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
