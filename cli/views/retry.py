"""Shows the progress of retrying many orders."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client.api import Json


def show(console: Console, pages: Iterable[Json]) -> None:
    """A progress bar while pages arrive, then the totals."""
    retried = skipped = 0
    columns = (TextColumn("retrying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        for page in pages:
            if page["matching"] is not None:
                bar.update(task, total=page["matching"])
            retried, skipped = retried + page["retried"], skipped + page["skipped"]
            bar.update(task, completed=retried + skipped)
    console.print(f"{retried} orders continue." if retried else "No order that matches needs attention.")
    if skipped:
        console.print(f"{skipped} were busy or can't be read by this release: run it again in a minute.")
    if retried:
        console.print("[dim]Orders that still need an operator: orderflow order list --stuck[/]")
