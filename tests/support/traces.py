"""An order's trace as Jaeger has it, and a check of what is wrong with it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest

from orderflow.contracts import MESSAGES, EventBus, Workflow, name_of
from orderflow.routing import Channel, route
from orderflow.saga import STEPS
from tests.support.system import System, until

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BUSES: Final = {
    EventBus.SNS: ("aws.sns", "orderflow-events"),
    EventBus.EVENTBRIDGE: ("aws.eventbridge", "orderflow"),
}
_MACHINE: Final = ("aws.step_functions", "orderflow-orders")
_OF_STEPS: Final = {name_of(m): s.service for s in STEPS for m in (s.success, s.refusal, s.undone)}
_OF_ORDER: Final = {"OrderPlaced", "OrderConfirmed", "OrderCancelled", "ConfirmationRejected", "OrderRetryRequested"}


@dataclass(slots=True)
class Span:
    """One span. `label`: such as `process StockReserved@payment`; `linked`: the traces that it links to."""

    id: str
    parent_id: str | None
    name: str
    service: str
    instance: str
    tags: dict[str, Any]
    began: int
    linked: list[str] = field(default_factory=list)
    parent: Span | None = None

    @property
    def label(self) -> str:
        return f"{self.name}@{self.service}"

    @property
    def path(self) -> tuple[str, ...]:
        """The labels from the root to this span."""
        return (*(self.parent.path if self.parent else ()), self.label)

    @property
    def failed(self) -> bool:
        return self.tags.get("error") in (True, "true")

    @property
    def message(self) -> str:
        """The short name of the message that it processes or publishes."""
        return self.name.partition(" ")[2] if self.name.startswith(("process ", "publish ")) else ""


class Trace:
    """Spans of one trace, as Jaeger's API gives them."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.text = json.dumps(raw)
        processes = raw["processes"]
        self.spans: dict[str, Span] = {}
        for one in raw["spans"]:
            process = processes[one["processID"]]
            of_process = {tag["key"]: tag["value"] for tag in process["tags"]}
            references = one.get("references") or []
            parents = [r["spanID"] for r in references if r["refType"] == "CHILD_OF"]
            assert len(parents) <= 1, one
            self.spans[one["spanID"]] = Span(
                id=one["spanID"],
                parent_id=parents[0] if parents else None,
                name=one["operationName"],
                service=process["serviceName"],
                instance=str(of_process["service.instance.id"]),
                tags={tag["key"]: tag["value"] for tag in one["tags"]},
                began=one["startTime"],
                linked=[r["traceID"] for r in references if r["refType"] == "FOLLOWS_FROM"],
            )
        for span in self:
            span.parent = self.spans.get(span.parent_id or "")

    def __iter__(self) -> Iterator[Span]:
        return iter(sorted(self.spans.values(), key=lambda s: s.began))

    @property
    def roots(self) -> list[Span]:
        return [span for span in self if span.parent_id is None]

    @property
    def orphans(self) -> list[Span]:
        return [span for span in self if span.parent_id and span.parent is None]

    @property
    def paths(self) -> set[tuple[str, ...]]:
        return {span.path for span in self}

    @property
    def resent(self) -> bool:
        return any(span.tags.get("orderflow.resend") for span in self)

    def drawn(self) -> str:
        """The trace as text, for a failure's message."""
        return "\n" + "\n".join(
            "  " * len(s.path) + s.label + (" !" if s.failed else "") + (" (orphan)" if s in self.orphans else "")
            for s in sorted(self, key=lambda s: s.path)
        )


class Jaeger:
    """Jaeger's HTTP API."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def find(self, trace_id: str) -> Trace | None:
        """A trace, as far as its spans have arrived."""
        answer = self._http.get(f"/api/traces/{trace_id}")
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        return Trace(data[0]) if data else None

    def services(self) -> set[str]:
        return set(self._http.get("/api/services").json()["data"])

    def everything(self, service: str, limit: int = 1500) -> str:
        """The newest traces of a service, as raw JSON."""
        answer = self._http.get("/api/traces", params={"service": service, "limit": limit, "lookback": "2d"})
        assert answer.status_code == 200, answer.text
        return answer.text


def jaeger_of(system: System) -> Jaeger:
    """The system's Jaeger; skips the test if none is installed, unless CI requires one."""
    if "jaeger" not in {part.name for part in system.runtime.status()}:
        missing = "no `jaeger` on PATH: its one binary is in the image jaegertracing/jaeger, and on its release page"
        if os.environ.get("ORDERFLOW_REQUIRE_DOCKER") == "1" or os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return Jaeger(system.url("jaeger"))


def trace_of(system: System, jaeger: Jaeger, order_id: str, complete: Callable[[Trace], list[str]]) -> Trace:
    """An order's trace, once it is complete; fails with what is missing."""
    trace_id = system.order(order_id)["trace_id"]
    found: list[Trace | None] = [None]

    def whole() -> bool:
        found[0] = jaeger.find(trace_id)
        return found[0] is not None and not complete(found[0])

    def missing() -> Any:
        return (complete(found[0]), found[0].drawn()) if found[0] else f"no trace {trace_id}"

    until(whole, 60, missing)
    assert found[0]
    return found[0]


def malformed(trace: Trace, order_id: str, workflow: Workflow, bus: EventBus) -> list[str]:
    """What is wrong with a complete trace of an order, whatever the order's outcome."""
    wrong = [f"{s.label} has no parent" for s in trace.roots if s.label != "POST /orders@order"]
    wrong += [f"{s.label} is an orphan" for s in trace.orphans]
    if len(trace.roots) != 1:
        wrong.append(f"{len(trace.roots)} roots")
    for span in trace:
        wrong += [f"{span.label}: {what}" for what in _odd(span, order_id, workflow, bus)]
    return wrong


def _odd(span: Span, order_id: str, workflow: Workflow, bus: EventBus) -> Iterator[str]:
    expected: dict[str, Any] = {}
    if span.name == "POST /orders":
        expected = {
            "span.kind": "server", "http.request.method": "POST", "http.route": "/orders", "url.path": "/orders",
            "http.response.status_code": 202, "url.scheme": "http", "orderflow.order_id": order_id,
            "orderflow.workflow": workflow.value,
        }  # fmt: skip
    elif span.name.startswith("db commit "):
        expected = {"span.kind": "client", "db.system.name": "postgresql", "db.namespace": span.service}
    elif span.message:
        system, destination = _way(span, workflow, bus)
        verb = span.name.partition(" ")[0]
        expected = {
            "span.kind": "consumer" if verb == "process" else "producer",
            "messaging.system": system,
            "messaging.destination.name": destination,
            "messaging.operation.name": verb,
            "messaging.operation.type": "process" if verb == "process" else "send",
            "orderflow.order_id": order_id,
            "orderflow.workflow": workflow.value,
        }
        if not _UUID.fullmatch(str(span.tags.get("messaging.message.id"))):
            yield "no message id"
        if verb == "process" and len(span.linked) != 1:
            yield f"{len(span.linked)} links, not one to its receive span"
        if verb == "publish" and not 1 <= span.tags.get("messaging.batch.message_count", 0) <= 10:
            yield "no batch size"
        yield from _misplaced(span, workflow)
    elif span.tags.get("span.kind") != "client" or "peer.service" not in span.tags:
        yield f"unexpected: {span.tags}"
    for key, value in expected.items():
        if span.tags.get(key) != value:
            yield f"{key} is {span.tags.get(key)!r}, not {value!r}"
    if span.failed and "error.type" not in span.tags:
        yield "failed without an error.type"


def _way(span: Span, workflow: Workflow, bus: EventBus) -> tuple[str, str]:
    if span.name.startswith("process "):
        return "aws_sqs", f"orderflow-{span.service}"
    cell = route(workflow, MESSAGES[span.message])
    if cell.channel is Channel.BUS:
        return _BUSES[bus]
    if cell.channel is Channel.START and span.tags.get("orderflow.resend"):
        return "aws_sqs", "orderflow-orchestrator"
    if cell.channel in (Channel.START, Channel.TOKEN):
        return _MACHINE
    return "aws_sqs", f"orderflow-{cell.listeners[0]}"


def _misplaced(span: Span, workflow: Workflow) -> Iterator[str]:
    """Checks that a hop's parent is the span in which its message was made, in its sender's process."""
    parent = span.parent
    if parent is None:
        return
    if span.name.startswith("publish ") and parent.service != span.service and parent.name != "POST /orders":
        yield f"published by another service than {parent.label}"
    sender = "order" if span.message in _OF_ORDER else _OF_STEPS.get(span.message)
    if sender and parent.service != sender:
        yield f"made in {parent.label}, not by {sender}"
    if not sender and workflow in (Workflow.ORCHESTRATION, Workflow.HYBRID) and span.message not in _FROM_EITHER:
        coordinator = (
            parent.service == "orchestrator" or parent.name == "POST /orders"
        )  # messages that a deadline makes it send
        if not coordinator:
            yield f"made in {parent.label}, not by the orchestrator"


_FROM_EITHER: Final = {"OrderCancellationRequested"}
