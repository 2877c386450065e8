"""`orderflow logs --order`: one order's lines from all services, in order of time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from cli import connect
from client.api import Api, ApiProblem
from runtime import Runtime

_LEVELS: Final = {"warning": "yellow", "error": "bold red", "critical": "bold red", "debug": "dim"}
_SHOWN_APART: Final = frozenset({"event", "level", "timestamp", "service", "order_id", "trace_id", "exception"})


@dataclass(frozen=True, slots=True)
class Line:
    """One JSON line of a service's log."""

    at: str
    part: str
    record: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return self.record | {"part": self.part}


def lines_of(texts: dict[str, str], wanted: Sequence[str]) -> list[Line]:
    """The lines that name any of `wanted` (an order's id, its trace's id), sorted by time. `texts`: part → its log."""
    found = []
    for part, text in texts.items():
        for raw in text.splitlines():
            if raw.startswith("{") and any(word in raw for word in wanted):
                try:
                    record = json.loads(raw)
                except ValueError:  # an incomplete line, which is still being written
                    continue
                found.append(Line(str(record.get("timestamp", "")), part, record))
    return sorted(found, key=lambda line: line.at)


def print_all(console: Console, system: Runtime, parts: Sequence[str], order: str, *, on: bool, as_json: bool) -> None:
    """Shows the lines of `order` from `parts`; with `on`, also new ones, until interrupted."""
    api = connect.connect()
    wanted = wanted_of(api, connect.resolve(api, order))
    printed = 0
    for line in follow(system, parts, wanted, until=lambda: not on):
        printed += 1
        if as_json:
            print(json.dumps(line.as_dict()), flush=True)  # noqa: T201
        else:
            show(console, line)
    if not printed and not as_json:
        console.print("No line names this order. LOG_LEVEL=DEBUG make up logs more.")


def wanted_of(api: Api, order_id: str) -> list[str]:
    """The ids by which to find an order's lines. If the order service is unavailable, its trace's id is not known, and
    the order's own id has to do."""
    try:
        trace_id = api.get("order", f"/orders/{order_id}")["trace_id"]
    except ApiProblem as problem:
        if problem.status == 404:
            raise
        trace_id = None
    return [order_id, *([trace_id] if trace_id else [])]


def follow(
    system: Runtime, parts: Sequence[str], wanted: Sequence[str], until: Callable[[], bool] = lambda: False
) -> Iterator[Line]:
    """The lines so far, then each new one, until `until()` is true."""
    logs = {part: system.follow(part, from_start=True) for part in parts}
    while True:
        yield from lines_of({part: more() for part, more in logs.items()}, wanted)
        if until():
            return
        time.sleep(0.3)


def show(console: Console, line: Line) -> None:
    """One line, formatted for people."""
    record = line.record
    more = " ".join(f"{k}={v}" for k, v in record.items() if k not in _SHOWN_APART and v not in (None, ""))
    level = str(record.get("level", ""))
    text = Text(line.at[11:23].ljust(13), "dim")
    text.append(f"{line.part:<13}", "cyan")
    text.append(f"{record.get('event', '')}", _LEVELS.get(level, ""))
    text.append(f"  {more}" if more else "", "dim")
    console.print(text, soft_wrap=True)
    if record.get("exception"):
        console.print(Text(str(record["exception"]), "dim"), soft_wrap=True)
