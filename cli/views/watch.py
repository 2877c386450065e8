"""An order moving through the services: live while it moves, as a picture of its timeline afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cli.views import common
from client.api import Json
from client.timeline import OrderTimeline, TimelineEvent, lanes_of
from diagrams.lanes import NOTE, Arrow, Lanes, is_command, legend, style_of

MARGIN: Final = 11


def watch(console: Console, timelines: Iterator[OrderTimeline]) -> OrderTimeline:
    """Shows each timeline in place of the previous one, leaves the last one on the screen, and returns it."""
    if not console.is_terminal:
        return _plainly(console, timelines)
    last: OrderTimeline | None = None
    with Live(console=console, transient=True, auto_refresh=False) as live:
        for last in timelines:
            live.update(picture(last, console.width, console.height - 8), refresh=True)
    assert last is not None
    console.print(picture(last, console.width))
    return last


def picture(timeline: OrderTimeline, width: int, rows: int | None = None) -> Group:
    """Lanes with the messages so far (the last `rows` of them), and the order's state."""
    reason = str(timeline.order.get("reason") or "")
    room = max((len(_aside(moment, reason)) + 2 for moment in timeline.moments if _aside(moment, reason)), default=0)
    lanes = Lanes(lanes_of(timeline.workflow, timeline.moments), width - min(room, 24), MARGIN)
    lines = [row(lanes, moment, reason) for moment in timeline.moments]
    if rows is not None and len(lines) > rows:
        lines = [Text(f"{'⋮':>{MARGIN - 2}}", "dim"), *lines[len(lines) - rows + 1 :]]
    return Group(*lanes.head(), *lines, Text(), *standing(timeline))


def row(lanes: Lanes, moment: TimelineEvent, reason: str = "") -> Text:
    """One line of a timeline. `reason`: a text that is shown elsewhere and need not be repeated here."""
    note = _aside(moment, reason)
    label = moment.type
    if moment.kind == "note":
        return lanes.note(moment.service, f"◦ {label}{f' ({moment.note})' if moment.note else ''}", _ms(moment.ms))
    return lanes.draw(
        Arrow(
            moment.service,
            moment.receivers,
            label,
            style_of(label, moment.kind),
            heavy=is_command(label),
            left=_ms(moment.ms),
            aside=note,
        )
    )


def _aside(moment: TimelineEvent, reason: str) -> str:
    """The text beside a message."""
    if moment.resend:
        return f"again, {moment.resend}"
    return "" if moment.note == reason else moment.note


def standing(timeline: OrderTimeline) -> list[Text]:
    """The order's state: decided, or what it waits for and since when."""
    lines = [Text(f"{name} does not answer: its part of the timeline is missing", NOTE) for name in timeline.incomplete]
    order = timeline.order
    state = Text.assemble(common.status(order["status"]))
    if timeline.done and timeline.took is not None:
        state.append(f" after {common.milliseconds(timeline.took)}, {timeline.messages} messages", "default")
    elif not timeline.done:
        so_far = (datetime.now(UTC) - datetime.fromisoformat(order["created_at"])).total_seconds()
        state.append(f" after {max(0.0, so_far):.1f} s", "default")
    if order.get("reason"):
        state.append(f": {order['reason']}", "default")
    if timeline.undone:
        state.append(f"; compensated: {', '.join(timeline.undone)}", "default")
    lines.append(state)
    if not timeline.done:
        lines += [waiting(wait) for wait in timeline.waiting]
    lines.append(legend())
    return lines


def waiting(wait: Json, indent: int = 0) -> Text:
    """What an order waits for, since when, and until when."""
    now = datetime.now(UTC)
    text = Text.assemble((" " * indent + "waits for ", "dim"), (wait["service"], "bold"), f" to answer {wait['step']}")
    text.append(f", {max(0.0, (now - datetime.fromisoformat(wait['since'])).total_seconds()):.1f} s already", "dim")
    if wait.get("deadline"):
        left = (datetime.fromisoformat(wait["deadline"]) - now).total_seconds()
        text.append(f"; given up in {max(0.0, left):.0f} s", "dim")
    return text


def _plainly(console: Console, timelines: Iterator[OrderTimeline]) -> OrderTimeline:
    """For files and pipes: every line once, as it arrives."""
    printed: set[tuple[str | None, str, float]] = set()
    lanes: Lanes | None = None
    last: OrderTimeline | None = None
    for last in timelines:
        if lanes is None:
            lanes = Lanes(lanes_of(last.workflow, last.moments), max(console.width, 100), MARGIN)
            for line in lanes.head():
                console.print(line, soft_wrap=True)
        for moment in last.moments:
            key = (moment.message_id, moment.type, moment.ms)
            if key not in printed:
                printed.add(key)
                console.print(row(lanes, moment), soft_wrap=True)
    assert last is not None
    console.print()
    for line in standing(last):
        console.print(line, soft_wrap=True)
    return last


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value < 99_999.5 else f"{value / 1000:.1f} s"
