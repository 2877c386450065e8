"""`orderflow up --foreground`: the system runs as long as the command does."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from rich.console import Console

from cli.views import lifecycle as view
from runtime import Runtime


def stay(system: Runtime, console: Console) -> None:
    """Shows the logs until a signal arrives (Ctrl-C, SIGTERM, or the terminal is closed), then stops the system."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    console.print("\n[dim]Ctrl-C stops it.[/]")
    try:
        logs = {part.name: system.follow(part.name) for part in system.status()}
        view.follow(console, logs, until=lambda: _over(ended, system))
    finally:
        system.down()
        console.print("[green]✓[/] stopped")


def _over(ended: threading.Event, system: Runtime) -> bool:
    return ended.is_set() or not system.running
