"""One order: places it, follows its timeline, and summarises what the timeline says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from client.api import TERMINAL, Api, ApiProblem, Json
from orderflow.contracts import MESSAGES, Workflow
from orderflow.routing import COORDINATOR, TABLE, Route
from orderflow.saga import STEPS

UNDONE: Final = {step.undone.__name__: step.name for step in STEPS}
_ENDS: Final = ("OrderConfirmed", "OrderCancelled")
_PATIENCE: Final = 10.0
"""Seconds that following an order continues while the order service doesn't answer."""


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """One line of a timeline. `ms`: since the order was accepted. `receivers`: the services that get its message."""

    ms: float
    service: str
    kind: str
    """command, event or note."""
    type: str
    receivers: tuple[str, ...]
    message_id: str | None
    note: str = ""
    resend: int = 0
    """How many times the message had been sent before."""


@dataclass(frozen=True, slots=True)
class OrderTimeline:
    """What is known about an order at one moment."""

    order: Json
    moments: tuple[TimelineEvent, ...]
    waiting: tuple[Json, ...]
    incomplete: tuple[str, ...]

    @property
    def id(self) -> str:
        return str(self.order["id"])

    @property
    def workflow(self) -> Workflow:
        return Workflow(self.order["workflow"])

    @property
    def done(self) -> bool:
        return self.order["status"] in TERMINAL

    @property
    def messages(self) -> int:
        """Distinct messages: one that was resent counts once."""
        return len({m.message_id for m in self.moments if m.message_id})

    @property
    def undone(self) -> tuple[str, ...]:
        """The steps that were compensated, in the order in which that happened."""
        return tuple(dict.fromkeys(UNDONE[m.type] for m in self.moments if m.type in UNDONE))

    @property
    def took(self) -> float | None:
        """Milliseconds from acceptance to the arbiter's decision; None before it."""
        return next((m.ms for m in self.moments if m.service == "order" and m.type in _ENDS), None)


def place(api: Api, body: Json, key: str | None = None) -> Json:
    """Places an order. Raises ApiProblem."""
    return api.post("order", "/orders", body, key=key)


def look(api: Api, order_id: str) -> OrderTimeline:
    """The order and its timeline, read now. Raises ApiProblem."""
    order = api.get("order", f"/orders/{order_id}")
    # Read the timeline after the order: the timeline of a decided order then includes the decision.
    return timeline_of(order, api.get("order", f"/orders/{order_id}/timeline"))


def timeline_of(order: Json, document: Json) -> OrderTimeline:
    """Combines the answers of the API."""
    entries = document["entries"]
    began = _time(entries[0]["at"]) if entries else _time(order["created_at"])
    workflow = Workflow(order["workflow"])
    moments = (
        TimelineEvent(
            ms=(_time(e["at"]) - began).total_seconds() * 1000,
            service=e["service"],
            kind=e["kind"],
            type=e["type"],
            receivers=receivers(workflow, e["type"]) if e["message_id"] else (),
            message_id=e["message_id"],
            note=e.get("note", ""),
            resend=e.get("resend", 0),
        )
        for e in entries
    )
    waiting, incomplete = tuple(document["waiting_for"] or ()), tuple(document.get("incomplete", ()))
    return OrderTimeline(order, tuple(moments), waiting, incomplete)


def follow(api: Api, order_id: str, every: float = 0.08, limit: float = float("inf")) -> Iterator[OrderTimeline]:
    """Yields the timeline whenever it grew or half a second has passed; the last one is terminal.

    Ends early after `limit` seconds. Raises ApiProblem if the order service is unavailable for 10 s.
    """
    began = answered = time.monotonic()
    shown: tuple[int, str] = (-1, "")
    shown_at = 0.0
    while True:
        try:
            now = look(api, order_id)
        except ApiProblem as problem:
            if problem.status not in (0, 503) or time.monotonic() - answered > _PATIENCE:
                raise
            time.sleep(0.3)
            continue
        answered = time.monotonic()
        state = (len(now.moments), str(now.order["status"]))
        if state != shown or answered - shown_at > 0.5 or now.done:
            shown, shown_at = state, answered
            yield now
        if now.done or answered - began > limit:
            return
        time.sleep(every)


def settle(
    api: Api, order_id: str, seconds: float = 3.0, calm: Callable[[OrderTimeline], bool] | None = None
) -> OrderTimeline:
    """The timeline once its coordinator has written its last line too: it is read until two reads agree."""
    ends = time.monotonic() + seconds
    last = look(api, order_id)
    while time.monotonic() < ends:
        time.sleep(0.1)
        now = look(api, order_id)
        if now.moments == last.moments and (calm is None or calm(now)):
            return now
        last = now
    return last


def route_of(workflow: Workflow, name: str) -> Route | None:
    """Where a message goes under a workflow, by its short name; None if the table doesn't contain it."""
    model = MESSAGES.get(name)
    return TABLE.get(workflow, {}).get(model) if model else None


def receivers(workflow: Workflow, name: str) -> tuple[str, ...]:
    """The services that a message goes to."""
    route = route_of(workflow, name)
    return route.listeners if route else ()


def lanes_of(workflow: Workflow, moments: Sequence[TimelineEvent] = ()) -> tuple[str, ...]:
    """The participants of a workflow, in the order in which they are drawn."""
    ranked = ("order", COORDINATOR[workflow], *(step.service for step in STEPS), *(m.service for m in moments))
    return tuple(dict.fromkeys(ranked))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
