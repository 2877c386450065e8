"""Options that take one of a set of words, and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypedDict

import typer

from orderflow.contracts import EventBus
from orderflow.routing import TABLE


class Choice(TypedDict):
    """Typer arguments that make an option take only certain words, and list them in its help."""

    parser: Callable[[str], str]
    metavar: str
    help: str


def one_of(*words: str, metavar: str, text: str = "") -> Choice:
    """For `typer.Option(**one_of(…))`: words that are known only when the program runs, such as the built workflows."""

    def parse(value: str) -> str:
        found = next((word for word in words if word.lower() == value.lower()), None)
        if found is None:
            raise typer.BadParameter(f"{value!r} is not one of: {', '.join(words)}")
        return found

    return {"parser": parse, "metavar": metavar, "help": f"{', '.join(words)}. {text}".strip()}


OrderId = Annotated[str, typer.Argument(metavar="ID", help="The order's id, or `last` for the newest order.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WorkflowOption = Annotated[
    str | None,
    typer.Option("--workflow", "-w", **one_of(*(w.value for w in TABLE), metavar="WORKFLOW")),
]
BusOption = Annotated[
    str | None,
    typer.Option("--bus", "-b", **one_of(*(b.value for b in EventBus), metavar="BUS")),
]
