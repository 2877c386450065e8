"""The same order once per workflow: the same business steps, taken from each timeline."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

from client import checks
from client.api import Api, Json
from client.timeline import OrderTimeline, TimelineEvent, follow, place, settle
from diagrams.model import decider
from orderflow.contracts import Workflow
from orderflow.routing import variants
from orderflow.saga import STEPS

PLACED: Final = "order: placed"
"""The first step of every order."""

_STEP_OF: Final = {
    **{step.success.__name__: f"{step.name}: done" for step in STEPS},
    **{step.refusal.__name__: f"{step.name}: refused" for step in STEPS},
    **{step.undone.__name__: f"{step.name}: undone" for step in STEPS},
    "OrderConfirmed": "order: decided",
    "OrderCancelled": "order: decided",
    "OrderPlaced": PLACED,
}
"""The message that ends a step → that step's name."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One business step: the messages that led to its end, in order of time, and the milliseconds it took."""

    name: str
    moments: tuple[TimelineEvent, ...]
    ms: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One workflow's order."""

    workflow: str
    event_bus: str
    timeline: OrderTimeline
    undone: tuple[str, ...] = ()
    """The steps that were compensated, by their services' records."""

    @property
    def segments(self) -> dict[str, Segment]:
        """The steps by name, in the order in which they ended."""
        found: dict[str, Segment] = {}
        pending: list[TimelineEvent] = []
        before = 0.0
        for moment in self.timeline.moments:
            pending.append(moment)
            name = _STEP_OF.get(moment.type)
            if name is not None and not moment.resend and name not in found:
                found[name] = Segment(name, tuple(pending), moment.ms - before)
                before, pending = moment.ms, []
        return found

    @property
    def decider(self) -> str:
        return decider(Workflow(self.workflow))

    @property
    def commands(self) -> int:
        """Commands that were sent as messages; in choreography each service runs its own."""
        return len({m.message_id for m in self.timeline.moments if m.kind == "command" and m.message_id})

    def as_dict(self) -> Json:
        """For machines."""
        timeline = self.timeline
        return {
            "workflow": self.workflow, "event_bus": self.event_bus, "decides": self.decider, "order": timeline.order,
            "milliseconds": timeline.took, "messages": timeline.messages, "commands": self.commands,
            "undone": list(self.undone),
            "steps": [
                {"step": s.name, "milliseconds": round(s.ms, 1),
                 "messages": [{"service": m.service, "type": m.type, "kind": m.kind} for m in s.moments]}
                for s in self.segments.values()
            ],
        }  # fmt: skip


During = Callable[[str, str], AbstractContextManager[object]]
"""The context in which a variant runs, by its workflow and bus."""


def compare(
    api: Api, body: Json, workflow: str | None, event_bus: str | None, during: During = lambda *_: nullcontext()
) -> list[Compared]:
    """Places `body` once per variant, one after the other, each until it is terminal, within `during(workflow, bus)`.
    Raises ApiProblem."""
    found = []
    for name, bus in variants(workflow, event_bus):
        with during(name, bus):
            found.append(_one(api, body, name, bus))
    return found


def _one(api: Api, body: Json, workflow: str, event_bus: str) -> Compared:
    order = place(api, body | {"workflow": workflow, "event_bus": event_bus})
    for _ in follow(api, order["id"], every=0.03):
        pass
    return Compared(workflow, event_bus, settle(api, order["id"]), checks.undone(api, order["id"]))
