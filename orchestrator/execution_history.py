"""Summarises an execution of the state machine from its history, in the shape of a saga with its audit log.

https://docs.aws.amazon.com/step-functions/latest/apireference/API_GetExecutionHistory.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from orchestrator import watched_executions
from orchestrator.engine import State
from orchestrator.watched_executions import execution_name
from orderflow.contracts import CancelOrder, OrderCancelled, OrderConfirmed, name_of
from orderflow.database import Database
from orderflow.envelope import Envelope, sender_of
from orderflow.errors import Undecodable
from orderflow.routing import MACHINE
from orderflow.saga import DEADLINE, NEEDS_ATTENTION, STEPS, owed
from orderflow.saga.audit_log import Record

_ENDS: Final = frozenset({"ExecutionFailed", "ExecutionTimedOut", "ExecutionAborted"})
_UNDOES: Final = frozenset(name_of(step.undo) for step in STEPS) | {name_of(CancelOrder)}
"""The messages for which a state machine uses the timeouts of a compensation."""


class Histories(Protocol):
    """The source of histories. Its method raises BrokerUnavailable."""

    def history(self, name: str) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Open:
    """The task that waits for an answer. `deadline` is when the state machine gives up on it."""

    step: str
    service: str
    since: datetime
    deadline: datetime | None


@dataclass(slots=True)
class ExecutionSummary:
    """An order's executions as one saga."""

    created_at: datetime
    updated_at: datetime
    lines: list[Record] = field(default_factory=list)
    facts: set[str] = field(default_factory=set)
    reason: str = ""
    version: int = 0
    needs_attention: bool = False
    waiting: Open | None = None

    @property
    def state(self) -> State:
        if name_of(OrderConfirmed) in self.facts:
            return State.CONFIRMED
        if name_of(OrderCancelled) in self.facts:
            return State.CANCELLED
        return State.RUNNING if owed(self.facts) is None else State.COMPENSATING


def of_order(database: Database, histories: Histories, order_id: str) -> ExecutionSummary | None:
    """The summary of all executions of an order; None if there are none. Raises BrokerUnavailable."""
    again = watched_executions.restarts(database, order_id) or 0
    names = [execution_name(order_id, n) for n in range(again + 1)]
    return summarise((name, histories.history(name)) for name in names)


def summarise(histories: Iterable[tuple[str, list[dict[str, Any]]]]) -> ExecutionSummary | None:
    """Summarises executions, given by name with their events, oldest first."""
    summary: ExecutionSummary | None = None
    for name, events in histories:
        if not events:
            continue  # the execution was lost with its broker
        began = events[0]["timestamp"]
        summary = summary or ExecutionSummary(began, began)
        summary.lines.append(Record(began, MACHINE, "note", "ExecutionStarted", note=name))
        _read(events, summary)
    return summary


def _read(events: list[dict[str, Any]], summary: ExecutionSummary) -> None:
    times: Mapping[str, Any] = {}
    asked: Envelope | None = None
    since: datetime | None = None
    summary.waiting, summary.needs_attention = None, False
    for event in events:
        at, kind = event["timestamp"], event["type"]
        details: Mapping[str, Any] = next((event[key] for key in event if key.endswith("EventDetails")), {})
        summary.version, summary.updated_at = summary.version + 1, at
        if kind == "ExecutionStarted":
            times = json.loads(details["input"]).get("times", {})
        elif kind == "TaskScheduled" and (asked := _asked(details)):
            note = "" if asked.resend else str(asked.data.get("reason", ""))
            summary.lines.append(
                Record(at, MACHINE, "command", asked.name, asked.id, asked.causationid, note, asked.resend)
            )
            since = since if since and asked.resend else at
            if details["resource"].endswith(".waitForTaskToken"):
                summary.waiting = Open(asked.name, _receiver(details), since, _deadline(asked, since, times))
        elif kind == "TaskSucceeded" and asked and (answer := _answer(details)):
            summary.facts.add(answer["fact"])
            summary.reason = summary.reason or answer["reason"]
            summary.waiting, since = None, None
            name = answer["type"].split(".")[1]
            service = sender_of(answer["source"])
            summary.lines.append(Record(at, service, "event", name, answer["id"], asked.id, answer["reason"]))
        elif kind == "PassStateEntered":
            _owed_by(json.loads(event["stateEnteredEventDetails"]["input"]), details["name"], at, summary)
        elif kind in _ENDS:
            summary.waiting = None
            summary.needs_attention = details.get("error") == NEEDS_ATTENTION
            summary.lines.append(Record(at, MACHINE, "note", kind, note=f"{details.get('error', '')}".strip()))


def _owed_by(data: Mapping[str, Any], state: str, at: datetime, summary: ExecutionSummary) -> None:
    """Records a deadline. It is no answer of a task, so it shows only in the state that it leads to."""
    if state.endswith(" deadline"):
        summary.facts.add(DEADLINE)
        reason = f"no answer to {state.removesuffix(' deadline')} in time"
        summary.reason = summary.reason or reason
        summary.lines.append(Record(at, MACHINE, "note", DEADLINE, note=reason))


def _asked(details: Mapping[str, Any]) -> Envelope | None:
    """The message that a task sent; None if its body can't be read."""
    body = json.loads(details["parameters"]).get("MessageBody")
    try:
        return Envelope.model_validate(json.loads(body) if isinstance(body, str) else body)
    except (ValueError, Undecodable):
        return None


def _answer(details: Mapping[str, Any]) -> dict[str, str] | None:
    """The answer to a task (`step_functions.task_output` of the broker); None if the task asked for none."""
    output = json.loads(details.get("output") or "{}")
    return output if {"fact", "type", "id", "source", "reason"} <= output.keys() else None


def _receiver(details: Mapping[str, Any]) -> str:
    return str(json.loads(details["parameters"]).get("QueueUrl", "")).rpartition("-")[2]


def _deadline(asked: Envelope, since: datetime, times: Mapping[str, Any]) -> datetime | None:
    seconds = sum(times.get("undo_waits" if asked.name in _UNDOES else "forward", ()))
    return since + timedelta(seconds=seconds) if seconds else None
