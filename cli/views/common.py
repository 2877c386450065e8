"""Shows orders and sagas on a terminal. Colour only repeats what the words say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.api import Api, Json
from orderflow.contracts import EventBus, Workflow
from orderflow.routing import TABLE, uses_bus

_STATUS: Final = {
    "CONFIRMED": "bold green", "CANCELLED": "red", "CANCELLING": "magenta", "NEEDS_ATTENTION": "bold yellow",
    "COMPENSATING": "magenta", "RUNNING": "cyan",
}  # fmt: skip
_BUS: Final = {EventBus.SNS: "SNS", EventBus.EVENTBRIDGE: "EventBridge"}


def console() -> Console:
    """Standard output, as it is now. A file or a pipe has no width of its own: nothing is truncated there."""
    found = Console(highlight=False)
    if not found.is_terminal and "COLUMNS" not in found._environ:
        found.width = 140
    return found


def print_json(value: object) -> None:
    """Writes JSON for machines to standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def mode(workflow: str, event_bus: str) -> str:
    """A workflow, with its bus if it uses one."""
    known = Workflow(workflow)
    if known in TABLE and not uses_bus(known):
        return workflow
    return f"{workflow} · {_BUS[EventBus(event_bus)]}"


def money(amount: Json | None) -> str:
    """An amount of minor units, formatted for people."""
    return f"{amount['amount'] / 100:.2f} {amount['currency']}" if amount else ""


def milliseconds(value: float | None) -> str:
    """A duration of up to a few minutes, in three or four digits."""
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value < 9_999.5 else f"{value / 1000:.1f} s"


def status(value: str) -> Text:
    """A status in its colour."""
    return Text(value, _STATUS.get(value, "cyan"))


def ago(at: str) -> str:
    """How long ago something was."""
    seconds = max(0, int((datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def facts(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Names and values, one pair per line; empty values are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value:
            grid.add_row(name, value)
    return grid


def order_facts(order: Json, api: Api, more: Sequence[tuple[str, str | Text]] = ()) -> Table:
    """One order; `more` is shown between its own fields and its trace."""
    rows: list[tuple[str, str | Text]] = [
        ("order", Text(order["id"], "bold")),
        ("status", status(order["status"])),
        ("reason", order.get("reason") or ""),
        ("workflow", mode(order["workflow"], order["event_bus"])),
        ("total", money(order["total"])),
        ("customer", order.get("customer_id") or ""),
        *more,
        ("trace", api.trace_url(order) or order.get("trace_id") or ""),
    ]
    return facts(rows)


def orders(items: Sequence[Json]) -> Table:
    """A list of orders, newest first."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("order", "status", "workflow"):
        table.add_column(column, no_wrap=True)
    table.add_column("total", justify="right", no_wrap=True)
    table.add_column("placed", justify="right", no_wrap=True)
    table.add_column("reason", overflow="ellipsis", no_wrap=True)
    for order in items:
        table.add_row(
            order["id"],
            status(order["status"]),
            mode(order["workflow"], order["event_bus"]),
            money(order["total"]),
            ago(order["created_at"]),
            Text(order.get("reason") or "", "dim"),
        )
    return table


def sagas(items: Sequence[Json]) -> Table:
    """A list of sagas, newest first."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("order", "state", "workflow", "waits for", "changed", "reason"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    for saga in items:
        state = "NEEDS_ATTENTION" if saga["needs_attention"] else saga["state"]
        waits = ", ".join(f"{w['step']} ({w['service']})" for w in saga["waiting_for"] or ())
        row = (saga["order_id"], status(state), saga["workflow"], waits or "-", ago(saga["updated_at"]))
        table.add_row(*row, Text(saga["reason"] or "", "dim"))
    return table
