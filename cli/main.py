"""The `orderflow` command: assembles the commands of the other modules."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from cli.commands import bench, demo, dlq, doctor, lifecycle, order, saga, simulator, workflow
from orderflow.environment import bypass_proxies, seal_libpq
from runtime import RuntimeProblem

app = typer.Typer(
    name="orderflow",
    help="One order business under several workflows, on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # local variables hold passwords
)
lifecycle.register(app)
app.command()(demo.demo)
app.command()(bench.bench)
app.command()(doctor.doctor)
app.add_typer(order.app, name="order")
app.add_typer(saga.app, name="saga")
app.add_typer(dlq.app, name="dlq")
app.add_typer(workflow.app, name="workflow")
app.add_typer(simulator.app, name="simulator")


def main() -> None:
    """Runs the command line. A RuntimeProblem is shown as what happened and what to do, with exit code 1."""
    console = Console(stderr=True, highlight=False)
    # It connects to a local system only, except for what it installs.
    seal_libpq()
    bypass_proxies(())
    try:
        app()
    except RuntimeProblem as problem:
        console.print(f"[bold red]✗[/] {_escape(problem.what)}", soft_wrap=True)
        console.print(f"[bold]→[/] {_escape(problem.way_out)}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Interrupted.")
        sys.exit(130)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


if __name__ == "__main__":
    main()
