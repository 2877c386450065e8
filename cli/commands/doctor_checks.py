"""Turns what `orderflow doctor` has gathered into findings, each with what to do next. Does no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from runtime import Part

Level = Literal["ok", "warning", "problem"]

BACKLOG: Final = 60.0
"""A queue that has not been empty for this many seconds gets a warning: as long as an order may wait."""

LAG: Final = 30.0
"""Seconds that a message may stay in an outbox: several leases. After one lease, any process sends it."""

SKEW: Final = 2.0
"""Seconds that two clocks may differ; HTTP's Date header is precise only to the second."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result. `check` groups findings; `way_out` says what to do next, and is empty if nothing is to be done."""

    check: str
    level: Level
    text: str
    way_out: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What one service reports about itself. `refusal`: why it is not ready or does not answer; `away`: whether it
    does not answer.

    `gauges` are those of /metrics without labels; `dead_letters` are counts by queue; `clock_ahead` is in seconds, None
    if unknown."""

    refusal: str = ""
    away: bool = False
    gauges: Mapping[str, float] = field(default_factory=dict)
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    clock_ahead: float | None = None


Services = Mapping[str, Told]


def parts(found: Sequence[Part]) -> list[Finding]:
    """The processes or containers."""
    wrong = [
        Finding("parts", "problem", f"{part.name} is {part.state}", _way_of(part))
        for part in found
        if part.state != "ready"
    ]
    where = ", ".join(f"{part.name} {part.port}" for part in found if part.port)
    return wrong or [Finding("parts", "ok", f"all {len(found)} are ready, on their ports: {where}")]


def _way_of(part: Part) -> str:
    if part.state in ("failed", "stopped"):
        return f"orderflow logs {part.name}; then start it again: make up"
    return f"it may still be starting; if this does not change: orderflow logs {part.name}"


def services(told: Services) -> list[Finding]:
    """Whether each service is ready."""
    wrong = [
        Finding("services", "problem", f"{name}: {one.refusal}", f"orderflow logs {name}")
        for name, one in told.items()
        if one.refusal
    ]
    return wrong or [Finding("services", "ok", "all answer and reach their database, broker and queue")]


def stack(deployed: Mapping[str, Any] | None, reason: str) -> list[Finding]:
    """What `deploy/stack/drift.py` found, or the reason why it found nothing."""
    if deployed is None:
        return [Finding("stack", "warning", f"not compared with stack.yaml: {reason}", "orderflow logs localstack")]
    found = deployed["parts"]
    wrong = [
        Finding(
            "stack",
            "warning" if part["state"] == "extra" else "problem",
            f"{part['name']} is {part['state']}" + (f": {part['detail']}" if part["detail"] else ""),
            _way_to_whole(part["state"]),
        )
        for part in found
        if part["state"] != "ok"
    ]
    return wrong or [
        Finding("stack", "ok", f"as in stack.yaml: {len(found)} queues, policies, subscriptions, rules, …")
    ]


def _way_to_whole(state: str) -> str:
    if state == "extra":
        return "delete it if nobody needs it"
    return "deploy again: make down && make up (the owners of orders resend the messages in flight)"


def databases(told: Services) -> list[Finding]:
    """Whether each database is reachable and has the schema of the code."""
    wrong = []
    for name, gauges in _answering(told).items():
        if not gauges.get("database_up"):
            wrong.append(Finding("databases", "problem", f"{name}'s does not answer", "orderflow logs postgres"))
        elif not gauges.get("database_schema_current"):
            text = f"{name}'s has another schema than its code expects"
            wrong.append(
                Finding("databases", "problem", text, f"start the newest code, which migrates: make up; {name}")
            )
    return _unless(wrong, told, "databases", "all answer and have the schema of their code")


def queues(told: Services, depths: Mapping[str, int]) -> list[Finding]:
    """How many messages wait in the services' queues. `depths`: by queue, where known."""
    wrong = []
    for name, gauges in _answering(told).items():
        since = gauges.get("queue_drained_seconds", 0.0)
        if since > BACKLOG and depths.get(name, 1):
            text = f"{name}'s has not been empty for {since:.0f} s" + (f": {depths[name]}" if name in depths else "")
            wrong.append(
                Finding(
                    "queues", "warning", text, f"check whether it makes progress: orderflow logs {name}; or scale it"
                )
            )
    known = ", ".join(f"{name} {depths[name]}" for name in told if name in depths)
    return _unless(wrong, told, "queues", f"messages: {known}" if known else "each was empty recently")


def dead_letters(told: Services, depths: Mapping[str, int]) -> list[Finding]:
    """Dead-lettered messages. A service's count is up to half a minute old; `depths`, where known, are current."""
    wrong = [
        Finding("dead letters", "problem", f"{n} in {queue}", f"orderflow dlq list --service {name}")
        for name, one in told.items()
        for queue, then in one.dead_letters.items()
        if (n := depths.get(queue, then))
    ]
    wrong += [
        Finding(
            "dead letters",
            "warning",
            f"the number of {name}'s dead letters is not known",
            "its broker must answer first",
        )
        for name, one in told.items()
        if not one.away and not one.dead_letters
    ]
    return _unless(wrong, told, "dead letters", "none")


def outboxes(told: Services) -> list[Finding]:
    """Messages that are staged in the outbox and not sent yet."""
    wrong = []
    for name, gauges in _answering(told).items():
        if gauges.get("outbox_parked"):
            text = f"the broker refused {gauges['outbox_parked']:.0f} messages of {name} for good"
            do = f"see why: orderflow dlq list -s {name}; once the cause is fixed: orderflow dlq redrive"
            wrong.append(Finding("outboxes", "problem", text, do))
        if gauges.get("outbox_lag_seconds", 0.0) > LAG:
            text = f"{name}'s oldest message has waited {gauges['outbox_lag_seconds']:.0f} s"
            wrong.append(
                Finding("outboxes", "problem", text, f"check whether it reaches its broker: orderflow logs {name}")
            )
    lag = max((gauges.get("outbox_lag_seconds", 0.0) for gauges in _answering(told).values()), default=0.0)
    return _unless(wrong, told, "outboxes", f"the oldest message has waited {lag:.1f} s")


def stuck(told: Services) -> list[Finding]:
    """Orders of every workflow that will not end without help. The order service knows all of them."""
    gauges = _answering(told).get("order")
    if gauges is None or "orders_open" not in gauges:
        return [Finding("orders", "warning", "not known: the order service does not report it", "orderflow logs order")]
    wrong = []
    if n := gauges.get("orders_needing_attention"):
        way = "orderflow order list --stuck; once the cause is fixed: orderflow order retry <id> --why …"
        wrong.append(Finding("orders", "problem", f"{n:.0f} need an operator", way))
    if n := gauges.get("orders_overdue"):
        way = "orderflow order list --stuck; then: orderflow order timeline <id>"
        wrong.append(Finding("orders", "problem", f"{n:.0f} are past every deadline", way))
    return wrong or [Finding("orders", "ok", f"{gauges['orders_open']:.0f} open, none stuck")]


def clocks(told: Services) -> list[Finding]:
    """Compares this machine's clock with the services' clocks, and those with their databases' clocks."""
    ahead = {f"{name}'s clock against this machine's": one.clock_ahead for name, one in told.items()}
    ahead |= {
        f"{name}'s database's clock against {name}'s": gauges.get("database_clock_ahead_seconds")
        for name, gauges in _answering(told).items()
    }
    known = {what: seconds for what, seconds in ahead.items() if seconds is not None}
    way = "synchronise the clocks by NTP: times in logs and timelines mislead (deadlines use only the database's clock)"
    wrong = [Finding("clocks", "warning", f"{w}: {s:+.1f} s", way) for w, s in known.items() if abs(s) > SKEW]
    worst = max(map(abs, known.values()), default=0.0)
    return _unless(wrong, told, "clocks", f"at most {worst:.1f} s apart (services, databases, this machine)")


def _answering(told: Services) -> dict[str, Mapping[str, float]]:
    return {name: one.gauges for name, one in told.items() if not one.away}


def _unless(wrong: Iterable[Finding], told: Services, check: str, fine: str) -> list[Finding]:
    """The problems; if there are none, that all is fine, or that it is not known."""
    if found := list(wrong):
        return found
    silent = [name for name, one in told.items() if one.away]
    if silent:
        return [Finding(check, "warning", f"not known of {', '.join(silent)}", "they must answer first")]
    return [Finding(check, "ok", fine)]
