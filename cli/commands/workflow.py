"""`orderflow workflow …`: draw which service sends what to whom, and keep the drawings in the docs current.

Without the command: `python -m cli.commands.workflow --check README.md docs/*.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.options import JsonFlag, one_of
from cli.views import common
from client.api import Json
from diagrams.docs import FORMATS, draw, renew
from diagrams.draw import text
from diagrams.model import OUTCOMES, play
from orderflow.contracts import Workflow
from orderflow.routing import COORDINATOR, TABLE
from runtime import RuntimeProblem

app = typer.Typer(help="Draw the workflows from the routing table that the services use.", no_args_is_help=True)

_WIDEST = 130


@app.command()
def show(
    mode: Annotated[
        str | None, typer.Argument(**one_of(*(w.value for w in TABLE), metavar="MODE", text="Default: all."))
    ] = None,
    form: Annotated[str, typer.Option("--format", "-f", **one_of(*FORMATS, metavar="FORMAT"))] = "text",
    outcome: Annotated[
        list[str] | None,
        typer.Option("--outcome", "-o", **one_of(*OUTCOMES, metavar="OUTCOME", text="May be repeated; default: all.")),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Draw which service sends what to whom under a workflow. The system needn't be running.

    \b
    orderflow workflow show choreography
    orderflow workflow show hybrid --outcome undeliverable
    orderflow workflow show orchestration --format mermaid
    orderflow workflow show hybrid --format svg > hybrid.svg
    """
    modes = [Workflow(mode)] if mode else list(TABLE)
    outcomes = [name for name in OUTCOMES if not outcome or name in outcome]
    if as_json:
        common.print_json([_as_dict(each, outcomes) for each in modes])
        return
    if form == "svg" and len(modes) > 1:
        raise RuntimeProblem("An SVG holds one workflow.", f"Name it: {', '.join(TABLE)}")
    console = common.console()
    for number, each in enumerate(modes):
        if number:
            typer.echo()
        if form != "text":
            typer.echo(draw(each, outcomes, form))
            continue
        for line in text(each, outcomes, min(_WIDEST, console.width) if console.is_terminal else 100):
            console.print(line, soft_wrap=True)


@app.command()
def docs(
    files: Annotated[list[Path], typer.Argument(help="Markdown with `<!-- workflow:MODE -->` in it, or SVG.")],
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit code 1 if one is stale.")] = False,
) -> None:
    """Renew the drawings in documents, or check that they are current.

    \b
    <!-- workflow:choreography -->                        all outcomes, mermaid
    <!-- workflow:hybrid success undeliverable text -->   two outcomes, as text
    <!-- /workflow -->                                    ends a drawing
    """
    stale = renew(files, check=check)
    console = Console(stderr=check, highlight=False)
    for path in stale:
        console.print(f"{path}: {'not current' if check else 'renewed'}", soft_wrap=True)
    if not stale:
        console.print("All drawings are current.")
    elif check:
        console.print("Renew them: orderflow workflow docs <files>")
        raise typer.Exit(1)


def _as_dict(mode: Workflow, outcomes: list[str]) -> Json:
    return {
        "workflow": mode.value,
        "coordinator": COORDINATOR[mode],
        "outcomes": {
            outcome: [
                {"from": t.sender, "message": t.name, "channel": t.channel.value, "to": list(t.receivers),
                 "acts": list(t.acts)}
                for t in play(mode, outcome)
            ]
            for outcome in outcomes
        },
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(docs)
