"""`orderflow simulator …`: faults of the simulated payment provider and carrier."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from rich.table import Table

from cli import connect
from cli.options import JsonFlag, one_of
from cli.views import common
from client.api import Api, ApiProblem, Json
from runtime import RuntimeProblem

app = typer.Typer(help="Simulated payment provider and carrier.", no_args_is_help=True)
faults = typer.Typer(help="Make a provider slow, unreliable or unavailable. Every process applies it within a second.",
                     no_args_is_help=True)  # fmt: skip
app.add_typer(faults, name="faults")

PROVIDERS: Final = ("payment", "shipping")

Provider = Annotated[
    str | None,
    typer.Option("--provider", "-p", **one_of(*PROVIDERS, metavar="PROVIDER", text="Default: both.")),
]


@faults.command()
def show(provider: Provider = None, as_json: JsonFlag = False) -> None:
    """Show the current faults."""
    api = connect.connect()
    _print({name: _ask(api, name) for name in _of(provider)}, as_json)


@faults.command("set")
def set_faults(
    provider: Provider = None,
    error_rate: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of calls that get no answer; half of them take effect first."),
    ] = None,
    latency: Annotated[
        float | None, typer.Option(min=0, max=60, help="Seconds added to each call (PROVIDER_TIMEOUT is 2).")
    ] = None,
    outage: Annotated[bool | None, typer.Option("--outage/--no-outage", help="Nothing answers.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Set faults (operators). Faults that are not named keep their values.

    \b
    orderflow simulator faults set --error-rate 0.05 --latency 2
    orderflow simulator faults set -p shipping --outage
    """
    given = {"error_rate": error_rate, "latency": latency, "outage": outage}
    wanted = {name: value for name, value in given.items() if value is not None}
    if not wanted:
        raise RuntimeProblem(
            "Name at least one fault.", "Give --error-rate, --latency or --outage; `clear` removes all of them."
        )
    api = connect.connect()
    _print({name: api.put(name, _PATH, _ask(api, name) | wanted) for name in _of(provider)}, as_json)


@faults.command()
def clear(provider: Provider = None, as_json: JsonFlag = False) -> None:
    """Remove all faults (operators)."""
    api = connect.connect()
    _print({name: api.put(name, _PATH, {}) for name in _of(provider)}, as_json)


_PATH: Final = "/simulator/faults"


def _of(provider: str | None) -> tuple[str, ...]:
    return (provider,) if provider else PROVIDERS


def _ask(api: Api, provider: str) -> Json:
    try:
        return api.get(provider, _PATH)
    except ApiProblem as problem:
        if problem.status != 404:
            raise
        raise RuntimeProblem(
            f"{provider} has no simulator: it uses a real provider.", "Only simulated providers have faults."
        ) from problem


def _print(found: dict[str, Json], as_json: bool) -> None:
    if as_json:
        common.print_json(found)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("provider", "error rate", "latency", "outage"):
        table.add_column(column)
    for name, flags in found.items():
        table.add_row(name, f"{flags['error_rate']:.1%}", f"{flags['latency']:g} s", "yes" if flags["outage"] else "no")
    common.console().print(table)
