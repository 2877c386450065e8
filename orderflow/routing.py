"""The routing table: where a message goes, by the order's workflow. A workflow is nothing more than its routes.

The stack's SNS filter policies and EventBridge patterns, the coordinator of an order, and the diagrams in the docs are
all derived from it. Handlers never see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from orderflow import contracts as c
from orderflow.contracts import EventBus, Message, Workflow, name_of
from orderflow.saga import SHIPMENT, STEPS

SERVICES: Final = ("order", "inventory", "payment", "shipping", "orchestrator")
"""All services with a queue of their own."""


MACHINE: Final = "step-functions"
"""The coordinator in the Step Functions workflow. It has no queue: it is started, and its tasks are answered."""


class Channel(StrEnum):
    """How a message leaves its process."""

    BUS = "bus"
    """Published as an event to all `listeners`."""
    QUEUE = "queue"
    """Sent to one service's queue."""
    START = "start-execution"
    """Starts the order's Step Functions execution."""
    TOKEN = "task-token"  # noqa: S105 - the name of a channel
    """Answers the task that asked (SendTaskSuccess), if there is one."""
    NONE = "none"
    """Stays inside the service that made it."""


@dataclass(frozen=True, slots=True)
class Route:
    """One cell of the table."""

    channel: Channel
    listeners: tuple[str, ...] = ()
    """Who receives it: the services that listen on the bus, the one whose queue it is, or the state machine."""


def _bus(*listeners: str) -> Route:
    return Route(Channel.BUS, listeners)


def _to(service: str) -> Route:
    return Route(Channel.QUEUE, (service,))


_LOCAL: Final = Route(Channel.NONE)
_Table = Mapping[type[Message], Route]

_CHOREOGRAPHY: Final[_Table] = {
    c.OrderPlaced: _bus("inventory"),
    c.StockReserved: _bus("payment", "order"),
    c.StockRejected: _bus("order"),
    c.PaymentCharged: _bus("shipping", "order"),
    c.PaymentDeclined: _bus("inventory", "order"),
    c.ShipmentScheduled: _bus("order"),
    c.ShipmentRejected: _bus("inventory", "payment", "order"),
    c.OrderCancellationRequested: _bus("inventory", "payment", "shipping"),
    c.StockReleased: _bus("order"),
    c.PaymentRefunded: _bus("order"),
    c.ShipmentCancelled: _bus("order"),
    c.OrderConfirmed: _bus(),
    c.OrderCancelled: _bus(),
    c.ConfirmationRejected: _LOCAL,
}

_ORCHESTRATION: Final[_Table] = {
    **{step.command: _to(step.service) for step in STEPS},
    **{step.undo: _to(step.service) for step in STEPS},
    **{outcome: _to("orchestrator") for step in STEPS for outcome in (step.success, step.refusal, step.undone)},
    c.OrderPlaced: _to("orchestrator"),
    c.OrderCancellationRequested: _to("orchestrator"),
    c.OrderRetryRequested: _to("orchestrator"),
    c.ConfirmOrder: _to("order"),
    c.CancelOrder: _to("order"),
    c.OrderConfirmed: _to("orchestrator"),
    c.OrderCancelled: _to("orchestrator"),
    c.ConfirmationRejected: _to("orchestrator"),
    c.OrderAccepted: _to("order"),
    c.OrderNeedsAttention: _to("order"),
}

_HYBRID: Final[_Table] = {
    **{k: v for k, v in _ORCHESTRATION.items() if k not in (SHIPMENT.command, c.ConfirmOrder)},
    c.OrderPaid: _bus("shipping"),
    SHIPMENT.success: _bus("order", "orchestrator"),
    SHIPMENT.refusal: _bus("order", "orchestrator"),
    SHIPMENT.undone: _bus("order", "orchestrator"),
    c.OrderConfirmed: _bus("orchestrator"),
    c.OrderCancelled: _bus("orchestrator"),
    c.ConfirmationRejected: _bus("orchestrator"),
}

_ANSWER: Final = Route(Channel.TOKEN, (MACHINE,))

_STEP_FUNCTIONS: Final[_Table] = {
    **{step.command: _to(step.service) for step in STEPS},
    **{step.undo: _to(step.service) for step in STEPS},
    **{outcome: _ANSWER for step in STEPS for outcome in (step.success, step.refusal, step.undone)},
    c.OrderPlaced: Route(Channel.START, (MACHINE,)),
    # The arbiter's answer to a task. Without a task it goes nowhere: the state machine learns it when it confirms.
    c.OrderCancellationRequested: _ANSWER,
    c.OrderRetryRequested: _to("orchestrator"),
    c.ConfirmOrder: _to("order"),
    c.CancelOrder: _to("order"),
    c.OrderConfirmed: _ANSWER,
    c.OrderCancelled: _ANSWER,
    c.ConfirmationRejected: _ANSWER,
    c.OrderAccepted: _to("order"),
    c.OrderNeedsAttention: _to("order"),
}

TABLE: Final[Mapping[Workflow, _Table]] = {
    Workflow.CHOREOGRAPHY: _CHOREOGRAPHY,
    Workflow.ORCHESTRATION: _ORCHESTRATION,
    Workflow.STEP_FUNCTIONS: _STEP_FUNCTIONS,
    Workflow.HYBRID: _HYBRID,
}
"""(workflow, type) → route, for all workflows."""

OPERATIONS: Final[_Table] = {c.DeadLetterSettled: _to("order")}
"""Messages that operators cause: part of no workflow, and the same in all."""

ADMITTED_AHEAD: Final[Mapping[str, frozenset[tuple[Workflow, type[Message]]]]] = {}
"""Events that a service will react to in the next release, but that its filter excludes until then: an existing event,
or the first one of a workflow. This release already lets them through, and the consumer acknowledges them; a filter
that excluded them until the next release would still drop them for a quarter of an hour (docs/adr/0033). Empty once
that release is out."""

COORDINATOR: Final[Mapping[Workflow, str]] = {
    Workflow.CHOREOGRAPHY: "order",
    Workflow.ORCHESTRATION: "orchestrator",
    Workflow.STEP_FUNCTIONS: MACHINE,
    Workflow.HYBRID: "orchestrator",
}
"""Who coordinates an order: resends lost messages, and compensates the order at its deadline."""


def route(workflow: Workflow, message: type[Message]) -> Route:
    """Where `message` goes. Raises LookupError for a message that is not part of this workflow."""
    try:
        return OPERATIONS.get(message) or TABLE[workflow][message]
    except KeyError:
        raise LookupError(f"{name_of(message)} has no route under {workflow.value}") from None


def route_of(workflow: Workflow, message: type[Message], *, resend: int, token: bool) -> Route:
    """Where one message goes: by the table, with two exceptions. An answer that no task asked for goes nowhere, and an
    order whose execution may be lost goes to the orchestrator. Raises LookupError as `route` does."""
    cell = route(workflow, message)
    if cell.channel is Channel.TOKEN and not token:
        return _LOCAL
    if cell.channel is Channel.START and resend:
        return _to("orchestrator")
    return cell


def heard_by(service: str) -> dict[Workflow, tuple[str, ...]]:
    """The events (short names) that `service` listens to on the bus, by workflow."""
    heard = {
        workflow: tuple(
            sorted(name_of(m) for m, r in table.items() if r.channel is Channel.BUS and service in r.listeners)
        )
        for workflow, table in TABLE.items()
    }
    return {workflow: names for workflow, names in heard.items() if names}


def uses_bus(workflow: Workflow) -> bool:
    """Whether any message of a workflow goes over the event bus."""
    return any(cell.channel is Channel.BUS for cell in TABLE[workflow].values())


def variants(workflow: str | None = None, event_bus: str | None = None) -> list[tuple[Workflow, EventBus]]:
    """All different combinations of workflow and bus, filtered by the arguments. If the bus makes no difference, it is
    the given one, or SNS."""
    found = []
    for built in TABLE:
        buses = list(EventBus) if uses_bus(built) else [EventBus(event_bus) if event_bus else EventBus.SNS]
        found += [(built, bus) for bus in buses]
    return [(w, b) for w, b in found if workflow in (None, w) and event_bus in (None, b)]


def hears(service: str, workflow: Workflow, message: type[Message]) -> bool:
    """Whether a message in the queue of `service` is meant for it. An event is, if the table names the service as a
    listener: filters let unknown types through (`filter_policy`)."""
    cell = OPERATIONS.get(message) or TABLE[workflow].get(message, _LOCAL)
    return cell.channel is not Channel.BUS or service in cell.listeners


def filter_policy(service: str) -> dict[str, Any]:
    """The SNS subscription filter policy (on message attributes) of `service`; only for services with a subscription.

    It excludes what the service does *not* listen to, because a changed policy takes up to 15 minutes to take effect: a
    new type or workflow passes the old policy, and the consumer decides (`hears`). Keys are ANDed: a message passes if
    neither its workflow nor its type is excluded. That is exact as long as no workflow publishes an event that a
    service listens to in another workflow only (a test checks this).
    https://docs.aws.amazon.com/sns/latest/dg/sns-subscription-filter-policies.html
    https://docs.aws.amazon.com/sns/latest/dg/string-value-matching.html
    """
    workflows, types = _not_heard(service)
    return _anything_but("workflow", workflows) | _anything_but("type", types)


def event_pattern(service: str) -> dict[str, Any]:
    """The EventBridge event pattern of `service`, with the same effect.

    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-event-patterns.html
    """
    workflows, types = _not_heard(service)
    named = _anything_but("workflow", workflows)
    return {"source": ["orderflow"]} | _anything_but("detail-type", types) | ({"detail": named} if named else {})


def _anything_but(key: str, values: list[str]) -> dict[str, Any]:
    return {key: [{"anything-but": values}]} if values else {}


def _not_heard(service: str) -> tuple[list[str], list[str]]:
    """Workflows that publish events, but none for `service`; and event types that it listens to in no workflow."""
    heard = [(w, name) for w, names in heard_by(service).items() for name in names]
    heard += [(w, name_of(message)) for w, message in ADMITTED_AHEAD.get(service, ())]
    workflows, names = {w for w, _ in heard}, {name for _, name in heard}
    events = {m for table in TABLE.values() for m, cell in table.items() if cell.channel is Channel.BUS}
    publish = [w for w, table in TABLE.items() if any(cell.channel is Channel.BUS for cell in table.values())]
    types = sorted(
        f"orderflow.{name_of(m)}.v{v + 1}" for m in events if name_of(m) not in names for v in range(m.version)
    )
    return [w.value for w in publish if w not in workflows], types
