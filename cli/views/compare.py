"""Timelines side by side: one column per workflow, one row per business step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.views import common
from client.compare import PLACED, Compared
from client.timeline import TimelineEvent
from diagrams.lanes import is_command, legend, style_of

_NARROWEST: Final = 22
_LABELS: Final = 19


def show(console: Console, compared: Sequence[Compared]) -> None:
    """As many columns side by side as fit the terminal, then the next ones below."""
    if not compared:
        console.print("Nothing to compare: this workflow doesn't run over this bus.")
        return
    fit = max(1, (console.width - _LABELS) // (_NARROWEST + 2))
    rows = -(-len(compared) // fit)
    size = -(-len(compared) // rows)
    for start in range(0, len(compared), size):
        console.print(table(compared[start : start + size], min(34, (console.width - _LABELS) // size - 2)))
        console.print()
    console.print(legend())
    console.print(
        "[dim]ms: since the previous step, of one order each: times vary between runs; `make bench` measures them.\n"
        "A command counts if it is sent as a message; in choreography each service runs its own.[/]"
    )


def table(compared: Sequence[Compared], width: int) -> Table:
    """The columns of some workflows, each `width` characters wide."""
    found = Table(box=SIMPLE_HEAD, padding=(0, 1), header_style="bold", show_edge=False, pad_edge=False)
    found.add_column("", style="dim", no_wrap=True, width=_LABELS - 2)
    for one in compared:
        found.add_column(common.mode(one.workflow, one.event_bus), overflow="fold", width=width)
    found.add_row("who decides", *(Text(one.decider, "bold") for one in compared))
    found.add_section()
    names = dict.fromkeys(name for one in compared for name in one.segments)
    for name in sorted(names, key=lambda n: _rank(n, compared)):
        found.add_row(name, *(_cell(one, name) for one in compared))
    found.add_section()
    found.add_row("outcome", *(common.status(one.timeline.order["status"]) for one in compared))
    if any(one.timeline.order.get("reason") for one in compared):
        found.add_row("reason", *(one.timeline.order.get("reason") or "" for one in compared))
    if any(one.undone for one in compared):
        found.add_row("undone", *(", ".join(one.undone) or "nothing" for one in compared))
    found.add_row("messages", *(_messages(one) for one in compared))
    found.add_row("accept → decided", *(common.milliseconds(one.timeline.took) for one in compared))
    return found


def _rank(name: str, compared: Sequence[Compared]) -> int:
    """The latest position of a step in any workflow, so that columns run backwards as little as possible."""
    return max(list(one.segments).index(name) if name in one.segments else -1 for one in compared)


def _cell(one: Compared, name: str) -> Text:
    segment = one.segments.get(name)
    if segment is None:
        return Text("-", "dim")
    text = Text()
    for moment in segment.moments:
        text.append_text(_line(moment)).append("\n")
    if name == PLACED:
        return text.append("accepted", "dim")
    return text.append(f"+{common.milliseconds(segment.ms)}" if segment.ms else "in the same transaction", "dim")


def _line(moment: TimelineEvent) -> Text:
    mark = "━▶" if is_command(moment.type) else "╌▶" if moment.receivers else "● "
    text = Text.assemble((f"{mark} {moment.type}", style_of(moment.type, moment.kind)))
    if moment.resend:
        text.append(" again", "dim")
    return text


def _messages(one: Compared) -> Text:
    text = Text(str(one.timeline.messages), "bold")
    return text.append(
        f" ({one.commands} command{'s' * (one.commands > 1)})" if one.commands else " (events only)", "dim"
    )
