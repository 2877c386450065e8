"""A service's lanes in a test: one message for each destination, and a broker that fails by destination."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from orderflow import clock
from orderflow import contracts as c
from orderflow.broker import BatchRefused, Parcel, SendFailure
from orderflow.broker.memory import MemoryBroker
from orderflow.contracts import EventBus, Message, Workflow
from orderflow.envelope import compose
from orderflow.errors import BrokerUnavailable
from orderflow.messaging.outbox import Outbox
from orderflow.routing import Channel
from tests.support.publishing import stage

Key = tuple[Channel, str]


Send = Callable[[Sequence[Parcel]], Sequence[SendFailure]]


# One message for each destination that a service can have: workflow, bus, message.
LANES: dict[Key, tuple[Workflow, EventBus, Message]] = {
    (Channel.BUS, "sns"): (Workflow.CHOREOGRAPHY, EventBus.SNS, c.StockReleased()),
    (Channel.BUS, "eventbridge"): (Workflow.CHOREOGRAPHY, EventBus.EVENTBRIDGE, c.StockReleased()),
    (Channel.QUEUE, "inventory"): (Workflow.ORCHESTRATION, EventBus.SNS, c.ReleaseStock()),
    (Channel.QUEUE, "orchestrator"): (Workflow.ORCHESTRATION, EventBus.SNS, c.StockReleased()),
    (Channel.START, "step-functions"): (Workflow.STEP_FUNCTIONS, EventBus.SNS, c.OrderPlaced.model_construct()),
    (Channel.TOKEN, "step-functions"): (Workflow.STEP_FUNCTIONS, EventBus.SNS, c.StockReleased()),
}


class Faulty(MemoryBroker):
    """Takes everything, but for what `faults` say by destination. `calls` holds what was sent, by destination."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: dict[Key, Send] = {}
        self.calls: dict[Key, list[list[str]]] = defaultdict(list)
        self.taken: dict[Key, list[str]] = defaultdict(list)

    def send(self, channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        key = channel, target
        ids = [parcel.envelope.id for parcel in batch]
        self.calls[key].append(ids)
        failed = self.faults[key](batch) if key in self.faults else ()
        self.taken[key] += [i for n, i in enumerate(ids) if n not in {failure.index for failure in failed}]
        return failed


def unavailable(code: str = "") -> Send:
    def fail(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        raise BrokerUnavailable(f"{code or 'connection refused'} when calling the Send operation", code)

    return fail


def refused(code: str, *, final: bool = False, only: str = "") -> Send:
    """The whole call, if `only` (an id) is in it."""

    def fail(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        if not only or only in [parcel.envelope.id for parcel in batch]:
            raise BatchRefused(f"{code} when calling the Send operation", code, final=final)
        return ()

    return fail


def entries(code: str, *, destination: bool, only: str = "") -> Send:
    """Entries of a call that was answered."""

    def fail(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        return [
            SendFailure(i, f"{code}: no", False, code, destination)
            for i, parcel in enumerate(batch)
            if only in ("", parcel.envelope.id)
        ]

    return fail


FAULTS: dict[str, Send] = {
    "no answer": unavailable(),
    "throttled": unavailable("ThrottlingException"),
    "throttled by entry": entries("Throttled", destination=True),
    "denied": unavailable("AccessDenied"),
    "missing": unavailable("StateMachineDoesNotExist"),
    "set up wrong": refused("InvalidParameter"),
    "set up wrong, by entry": entries("InvalidParameterValue", destination=False),
}


def stage_for(outbox: Outbox, key: Key, number: int = 1) -> list[str]:
    workflow, event_bus, message = LANES[key]
    token = "t" if key[0] is Channel.TOKEN else None
    made = [
        compose(message, source="test", order_id=clock.new_id(), workflow=workflow, event_bus=event_bus,
                task_token=token)
        for _ in range(number)
    ]  # fmt: skip
    return stage(outbox, made)


def rows(outbox: Outbox, columns: str, order: str = "entry") -> list[Any]:
    return outbox._database.query(f"SELECT {columns} FROM outbox ORDER BY {order}")


def all_due(outbox: Outbox) -> None:
    outbox._database.query("UPDATE outbox SET leased_until = now() - interval '1 s'")
