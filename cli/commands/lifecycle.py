"""`orderflow up`, `down`, `status`, `logs` and `reset`."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer
from rich.console import Console

from cli.commands import order_logs
from cli.commands.foreground import stay
from cli.options import JsonFlag
from cli.views import common
from cli.views import lifecycle as view
from runtime import Runtime, RuntimeProblem, runtime

console = Console(highlight=False)

NOT_READY = 3
"""Exit code of `status` if not every part is ready; systemctl uses the same."""


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to `app`."""
    for command in (up, down, status, logs, reset):
        app.command()(command)


def up(
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Keep running and show the logs; Ctrl-C stops everything.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Start the system, or apply changed settings to the running system. Returns when every part is ready."""
    system = runtime()
    was_running = system.running
    began = time.monotonic()
    with view.progress(Console(stderr=True, highlight=False) if as_json else console) as report:
        changed = system.up(report)
    took = time.monotonic() - began
    if as_json:
        common.print_json({"ready": True, "seconds": round(took, 1), "changed": changed, "parts": _parts(system)})
    else:
        view.after_up(console, system.plan, took, changed, was_running)
    if foreground:
        stay(system, console)


def down() -> None:
    """Stop everything. Data is kept."""
    began = time.monotonic()
    with console.status("Stopping …"):
        stopped = runtime().down()
    if stopped:
        console.print(f"[green]✓[/] stopped in {time.monotonic() - began:.1f} s; data is kept until `make reset`")
    else:
        console.print("Nothing was running.")


def status(as_json: JsonFlag = False) -> None:
    """Show every part: state, process, port. The exit code is 3 if not all are ready."""
    system = runtime()
    parts = system.status()
    plan = system.running_plan()
    if as_json:
        common.print_json({
            "running": system.running, "workflow": plan.workflow, "event_bus": plan.event_bus,
            "parts": [part.as_dict() for part in parts],
        })  # fmt: skip
    else:
        view.status(console, plan, parts)
    if any(part.state != "ready" for part in parts):
        raise typer.Exit(NOT_READY)


def logs(
    parts: Annotated[list[str] | None, typer.Argument(help="order, payment, localstack, …; all by default")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new lines.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines to show.")] = 20,
    order: Annotated[
        str | None, typer.Option(metavar="ID", help="Only this order's lines, from all services, in order of time.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the last log lines of the parts; with --order, their lines about one order.

    \b
    orderflow logs payment --follow
    orderflow logs --order last
    """
    if as_json and order is None:
        raise RuntimeProblem(
            "--json needs --order.", "Without --order, the services' lines are JSON already: orderflow logs order"
        )
    system = runtime()
    known = [part.name for part in system.status()]
    if unknown := sorted(set(parts or ()) - set(known)):
        raise RuntimeProblem(f"There is no part {', '.join(unknown)}.", f"Choose from: {', '.join(known)}")
    if order is not None:
        order_logs.print_all(console, system, parts or known, order, on=follow, as_json=as_json)
        return
    more = {name: system.follow(name) for name in parts or known} if follow else {}
    for name in parts or known:
        for line in system.logs(name).splitlines()[-lines:] if lines else ():
            view.log_line(console, name, line)
    if follow:
        view.follow(console, more)


def reset(yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False) -> None:
    """Stop everything and delete all data: orders, stock, logs."""
    if not yes:
        if not sys.stdin.isatty():
            raise RuntimeProblem(
                "`reset` deletes all data, and there is no terminal on which to ask.",
                "Confirm it: orderflow reset --yes",
            )
        typer.confirm("Delete all orders, stock and logs of this system?", abort=True)
    runtime().reset()
    console.print("[green]✓[/] all data is deleted; `make up` starts an empty system")


def _parts(system: Runtime) -> list[dict[str, object]]:
    return [part.as_dict() for part in system.status()]
