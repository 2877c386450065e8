"""`orderflow order trace`: an order's trace as a waterfall, from Jaeger, or from its timeline if there is no Jaeger."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console, Group
from rich.text import Text

from cli import connect
from cli.options import JsonFlag, OrderId
from cli.views import common
from client.api import Api, Json
from client.timeline import OrderTimeline, look
from diagrams.lanes import REFUSALS

_COMING_IN: Final = 8.0
"""Seconds after an order's last update during which its spans may still arrive."""
_CALM: Final = 2.5
"""Seconds without a new span after which an ended order's trace is complete: slightly longer than the 2 s between a
process's exports (OTEL_BSP_SCHEDULE_DELAY)."""
_SERVICE_COLOURS: Final = {
    "order": "cyan", "orchestrator": "blue", "inventory": "yellow", "payment": "green", "shipping": "magenta",
}  # fmt: skip


@dataclass(slots=True)
class Bar:
    """One line of the waterfall. Times are in ms since the trace began; `error` holds the error's text."""

    service: str
    name: str
    start: float
    took: float
    error: str = ""
    children: list[Bar] = field(default_factory=list)

    def flat(self, depth: int = 0) -> list[tuple[int, Bar]]:
        """This span and those below it, in order of time, each with its depth."""
        found = [(depth, self)]
        for child in sorted(self.children, key=lambda b: b.start):
            found += child.flat(depth + 1)
        return found

    def as_dict(self) -> Json:
        """For machines."""
        return {
            "service": self.service, "name": self.name, "start_ms": round(self.start, 3), "ms": round(self.took, 3),
            "error": self.error or None, "children": [c.as_dict() for c in self.children],
        }  # fmt: skip


def show(
    order_id: OrderId,
    as_json: JsonFlag = False,
) -> None:
    """Draw an order's trace: every span in every service, from Jaeger. Without Jaeger, draw its timeline."""
    api = connect.connect()
    timeline = look(api, connect.resolve(api, order_id))
    found = fetch(api, timeline) if timeline.order.get("traced") else None
    roots = tree(found) if found else from_timeline(timeline)
    source = "jaeger" if found else "timeline"
    if as_json:
        common.print_json({
            "order_id": timeline.id, "trace_id": timeline.order.get("trace_id"), "source": source,
            "trace_url": api.trace_url(timeline.order), "spans": [bar.as_dict() for bar in roots],
        })  # fmt: skip
        return
    console = common.console()
    console.print(common.order_facts(timeline.order, api), soft_wrap=True)
    console.print()
    if not found:
        console.print(_why_not(api, timeline), style="yellow")
    console.print(waterfall(roots, console))


def fetch(api: Api, timeline: OrderTimeline, patience: float = _COMING_IN) -> Json | None:
    """The trace from Jaeger. For a recent order it waits until no more spans arrive, but at most until `patience`
    seconds after the order's last update."""
    trace_id = str(timeline.order["trace_id"])
    young = (datetime.now(UTC) - datetime.fromisoformat(timeline.order["updated_at"])).total_seconds()
    ends = time.monotonic() + patience - young
    found, grew = api.trace(trace_id), time.monotonic()
    while api.jaeger and (now := time.monotonic()) < ends:
        # An order in flight may pause for long and then continue. Before the first spans, silence proves nothing.
        if timeline.done and found and now - grew >= _CALM:
            break
        time.sleep(0.5)
        more = api.trace(trace_id)
        if more and (not found or len(more["spans"]) != len(found["spans"])):
            found, grew = more, time.monotonic()
    return found


def tree(trace: Json) -> list[Bar]:
    """Jaeger's list of spans as trees: usually one, several if a parent is missing."""
    services = {key: str(process["serviceName"]) for key, process in trace["processes"].items()}
    began = min(span["startTime"] for span in trace["spans"])
    bars = {
        span["spanID"]: Bar(
            service=services.get(span["processID"], "?"),
            name=str(span["operationName"]),
            start=(span["startTime"] - began) / 1000,
            took=span["duration"] / 1000,
            error=_error(span),
        )
        for span in trace["spans"]
    }
    roots: list[Bar] = []
    for span in trace["spans"]:
        parent = next((r["spanID"] for r in span.get("references", ()) if r["refType"] == "CHILD_OF"), None)
        siblings = bars[parent].children if parent in bars else roots
        siblings.append(bars[span["spanID"]])
    return sorted(roots, key=lambda b: b.start)


def from_timeline(timeline: OrderTimeline) -> list[Bar]:
    """The timeline as spans: each message lasts from its own entry to the next one."""
    moments = timeline.moments
    ends = [m.ms for m in (*moments[1:], *moments[-1:])]
    return [
        Bar(
            m.service,
            m.type,
            m.ms,
            max(0.0, end - m.ms),
            m.note if m.type in REFUSALS else "",
        )
        for m, end in zip(moments, ends, strict=True)
    ]


def waterfall(roots: Sequence[Bar], console: Console) -> Group:
    """One line per span: service, name indented by depth, bar, duration."""
    lines = [pair for root in roots for pair in root.flat()]
    if not lines:
        return Group(Text("no spans"))
    total = max(0.001, *(bar.start + bar.took for _, bar in lines))
    width = min(console.width, 160)
    service_width = max(len(bar.service) for _, bar in lines) + 1
    name_width = min(max(len(bar.name) + 2 * depth for depth, bar in lines) + 1, max(24, width * 2 // 5))
    room = max(10, width - service_width - name_width - 10)
    scale = Text(" " * (service_width + name_width) + "0".ljust(room - 8) + common.milliseconds(total).rjust(8), "dim")
    return Group(scale, *(_line(depth, bar, total, service_width, name_width, room) for depth, bar in lines))


def _line(depth: int, bar: Bar, total: float, service_width: int, name_width: int, room: int) -> Text:
    colour = _SERVICE_COLOURS.get(bar.service, "white")
    name = "  " * depth + bar.name
    if len(name) >= name_width:
        name = name[: name_width - 2] + "…"
    begin = min(room - 1, int(bar.start / total * room))
    size = max(1, min(room - begin, round(bar.took / total * room)))
    style = "bold red" if bar.error else colour
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{bar.service:<{service_width}}", colour)
    text.append(f"{name:<{name_width}}", "bold red" if bar.error else "")
    text.append(" " * begin + ("█" * size if bar.took else "▏"), style)
    text.append(" " * (room - begin - size))
    text.append(f"{_short(bar.took):>9}", "dim")
    if bar.error:
        text.append("\n" + " " * service_width + "  " * depth + f"✗ {bar.error}", "red")
    return text


def _short(ms: float) -> str:
    return f"{ms:.1f} ms" if ms < 100 else common.milliseconds(ms)


def _error(span: Json) -> str:
    tags: dict[str, Any] = {tag["key"]: tag["value"] for tag in span.get("tags", ())}
    if tags.get("error") not in (True, "true") and tags.get("otel.status_code") != "ERROR":
        return ""
    return str(tags.get("otel.status_description") or tags.get("error.type") or "failed")


def _why_not(api: Api, timeline: OrderTimeline) -> str:
    if not timeline.order.get("traced"):
        why = "This order's trace was not recorded: tracing was off, or more orders came than TRACES_PER_SECOND allows."
    elif not api.jaeger:
        why = "There is no Jaeger here (a `jaeger` on PATH is started with the system; with Docker, make up starts it)."
    else:
        why = "Jaeger doesn't have this trace (it keeps the newest in memory)."
    return f"{why} From the timeline instead:\n"
