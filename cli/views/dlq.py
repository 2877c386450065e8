"""Shows dead letters on a terminal."""

from __future__ import annotations

import json
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.views import common
from client.api import Json

_UNREADABLE: Final = "(unreadable)"


def show_list(console: Console, found: Json) -> None:
    """Two lines per dead letter: the message, and why it was dead-lettered."""
    held = [queue for queue in found["queues"] if queue["messages"]]
    for service in found["away"]:
        console.print(Text(f"{service} does not answer: its dead letters are not shown.", "yellow"))
    if not found["items"] and not held:
        console.print("No dead letters: every message was handled.")
        console.print("\n[dim]Orders may still wait for an operator: orderflow order list --stuck[/]")
        return
    console.print(", ".join(f"{queue['name']}: {queue['messages']}" for queue in held), style="bold")
    for letter in found["items"]:
        console.print()
        line = Text(f"{letter['id']}  ")
        line.append(f"{letter['type'] or _UNREADABLE:<18}", "cyan")
        line.append(f"  {letter['queue']}  {common.ago(letter['at'])}")
        line.append(f"  order {letter['order_id']}" if letter["order_id"] else "")
        console.print(line, soft_wrap=True)
        console.print(Text(f"    {letter['reason']}", "dim"), soft_wrap=True)
    if not found["complete"]:
        console.print("\n[dim]There are more, or another reader has received some of them just now.[/]")
    console.print(
        "\n[dim]One in full: orderflow dlq show ID. Once its cause is fixed: orderflow dlq redrive ID --why …[/]",
        soft_wrap=True,
    )


def facts(letter: Json) -> Table:
    """Everything about one dead letter that may be shown."""
    received = f"{letter['receives']} times" if letter["receives"] else ""
    return common.facts(
        (
            ("letter", Text(letter["id"], "bold")),
            ("queue", letter["queue"]),
            ("since", f"{letter['at']} ({common.ago(letter['at'])})"),
            ("reason", Text(letter["reason"])),
            ("received", received),
            ("size", f"{letter['size']:,} bytes"),
            ("message", letter["message_id"] or _UNREADABLE),
            ("type", Text(letter["type"] or "")),
            ("handler", f"{letter['service']}: {letter['handler']}" if letter["handler"] else ""),
            ("order", letter["order_id"] or ""),
            ("workflow", common.mode(letter["workflow"], letter["event_bus"]) if letter["workflow"] else ""),
            ("sent by", Text(letter["source"] or "")),
            ("sent at", Text(letter["sent_at"] or "")),
            ("sent again", f"{letter['resend']} times" if letter["resend"] else ""),
            ("caused by", letter["causation_id"] or ""),
            ("trace", letter["trace_id"] or ""),
            ("data", Text(json.dumps(letter["data"]) if letter["data"] else "")),
        )
    )


def show_settled(console: Console, action: str, settled: list[Json]) -> None:
    """What was done, and where to see the result."""
    if not settled:
        console.print("There was nothing to do.")
        return
    done = "Sent back" if action == "redrive" else "Discarded"
    console.print(f"{done}: {len(settled)}")
    for letter in settled[:20]:
        what = f"  {letter['type'] or _UNREADABLE:<18}  {letter['queue']}"
        console.print(Text(what + (f"  order {letter['order_id']}" if letter["order_id"] else "")), soft_wrap=True)
    if len(settled) > 20:
        console.print(f"  … and {len(settled) - 20} more")
    if action == "redrive":
        console.print("\n[dim]Messages that fail again are dead-lettered again: orderflow dlq list[/]")
