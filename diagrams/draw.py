"""Draws a workflow: as lanes for a terminal, or as a Mermaid sequence diagram."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.text import Text

from diagrams.lanes import Arrow, Lanes, is_command, style_of
from diagrams.model import OUTCOMES, Tell, decider, lanes, play
from orderflow.contracts import Workflow
from orderflow.routing import TABLE, Channel

TITLES: Final = {
    "success": "it succeeds", "out-of-stock": "out of stock", "declined": "the card is declined",
    "undeliverable": "the address is undeliverable",
}  # fmt: skip
"""The outcomes in words."""

_LEGEND: Final = "━▶ command   ╌▶ event   ▷ only noted   ● sender; alone: on the bus, nobody here listens"

_WAYS: Final = {
    Channel.BUS: "events over the bus (SNS or EventBridge)",
    Channel.START: "StartExecution",
    Channel.QUEUE: "messages into SQS queues",
    Channel.TOKEN: "answers by SendTaskSuccess",
}


def summary(workflow: Workflow) -> str:
    """One sentence: who decides, and how messages are sent."""
    used = {route.channel for route in TABLE[workflow].values()}
    return f"{workflow.value}: {decider(workflow)} decides; {'; '.join(w for c, w in _WAYS.items() if c in used)}"


def text(workflow: Workflow, outcomes: Sequence[str], width: int = 100) -> list[Text]:
    """The first outcome in full; of the others, only what differs from it. `Plain` has no colours, for the docs."""
    drawn = Lanes(lanes(workflow), width, margin=2)
    lines = [Text(summary(workflow), "bold")]
    first = play(workflow, outcomes[0])
    for outcome in outcomes:
        told = play(workflow, outcome)
        same = 0 if told is first or outcome == outcomes[0] else _common(first, told)
        since = f", after {told[same - 1].name}" if same else ""
        lines += [Text(), Text(f"  ▸ {TITLES[outcome]}{since}", "bold"), *drawn.head()]
        lines += [drawn.draw(_arrow(tell)) for tell in told[same:]]
    lines += [
        Text(),
        Text(f"  {_LEGEND}", "dim"),
    ]
    for line in lines:
        line.rstrip()
    return lines


def mermaid(workflow: Workflow, outcomes: Sequence[str]) -> str:
    """One diagram of all outcomes, with an `alt` where they diverge."""
    lines = ["sequenceDiagram", *(f"    participant {_id(name)} as {name}" for name in lanes(workflow))]
    lines += _branch([play(workflow, outcome) for outcome in outcomes], "    ")
    return "\n".join(lines)


def _branch(plays: Sequence[Sequence[Tell]], indent: str) -> Iterator[str]:
    """What the plays have in common, then each group of plays that continue alike."""
    common = min(_common(plays[0], other) for other in plays)
    for tell in plays[0][:common]:
        yield from (indent + line for line in _mermaid(tell))
    rest = [told[common:] for told in plays if len(told) > common]
    groups: dict[Tell, list[Sequence[Tell]]] = {}
    for told in rest:
        groups.setdefault(told[0], []).append(told)
    for number, (first, alike) in enumerate(groups.items()):
        yield f"{indent}{'else' if number else 'alt'} {first.name}"
        yield from _branch(alike, indent + "    ")
    if groups:
        yield f"{indent}end"


def _mermaid(tell: Tell) -> Iterator[str]:
    sender = _id(tell.sender)
    if not tell.receivers:
        yield f"Note over {sender}: {tell.name} on the bus, nobody here listens"
    for name in sorted(tell.receivers, key=lambda n: n not in tell.acts):
        arrow = "->>" if is_command(tell.name) else "-->>" if name in tell.acts else "--)"
        yield f"{sender}{arrow}{_id(name)}: {tell.name}"


def _arrow(tell: Tell) -> Arrow:
    noted = tuple(name for name in tell.receivers if name not in tell.acts)
    return Arrow(tell.sender, tell.receivers, tell.name, style_of(tell.name), is_command(tell.name), noted)


def _common(one: Sequence[Tell], other: Sequence[Tell]) -> int:
    """The number of messages that two plays have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _id(name: str) -> str:
    return name.replace("-", "_").replace(" ", "_")


def every_outcome() -> list[str]:
    """All outcomes, success first."""
    return list(OUTCOMES)
