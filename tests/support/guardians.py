"""The guardian of executions in a test, and what it asks of Step Functions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.guardian import Guardian
from orchestrator.watched_executions import Watched
from orderflow import contracts as c
from orderflow.broker.aws.step_functions import Execution
from orderflow.envelope import Envelope, compose, decode
from tests.support.placed import placed
from tests.support.world import World


def watched(**changes: Any) -> Watched:
    envelope = placed()
    values = {"order_id": envelope.subject, "placed": envelope, "restarts": 0, "retried": False, "doubted": False}
    return Watched(**values | changes)


class Machine:
    """What the guardian asks of Step Functions. `found` is how every execution stands."""

    def __init__(self) -> None:
        self.found: Execution | None = None
        self.started: list[str] = []

    def describe(self, name: str) -> Execution | None:
        return self.found

    def restart(self, envelope: Envelope, name: str) -> None:
        self.started.append(name)


@pytest.fixture
def guardian(world: World) -> tuple[Guardian, Machine]:
    machine = Machine()
    return guarding(world, machine), machine


def guarding(world: World, machine: Machine, now: Callable[[], float] = time.monotonic, **settings: Any) -> Guardian:
    """A guardian of its own, as another process has it."""
    service = world.services["orchestrator"]
    changed = service.settings.model_copy(update=settings)
    return Guardian(service.database, service.outbox, machine, changed, now=now)


def look(world: World, guardian: Guardian) -> None:
    world.execute("orchestrator", "UPDATE executions SET next_at = now() WHERE state = 'watched'")
    guardian.sweep(0)


def remind(world: World, again: int = 1) -> str:
    """An order that has not heard anything asks the orchestrator."""
    envelope = placed().model_copy(update={"resend": again})
    world.broker.queues["orchestrator"].put(envelope.encode())
    world.deliver("orchestrator")
    return envelope.subject


def retry(world: World, order_id: str) -> None:
    """An operator's, delivered twice."""
    envelope = compose(
        c.OrderRetryRequested(by="ada", why="it works again"), source="order", order_id=order_id,
        workflow=c.Workflow.STEP_FUNCTIONS, event_bus=c.EventBus.SNS,
    )  # fmt: skip
    for _ in range(2):
        world.broker.queues["orchestrator"].put(envelope.encode())
        world.deliver("orchestrator")


def told(world: World, order_id: str) -> list[str]:
    """The names of the messages that wait for the order."""
    world.publish("orchestrator")
    return [decode(d.body).name for d in world.broker.queues["order"].waiting if order_id in d.body]


def state_of(world: World, order_id: str) -> tuple[str, int]:
    [row] = world.execute("orchestrator", "SELECT state, restarts FROM executions WHERE order_id = %s", [order_id])
    return row  # type: ignore[no-any-return]
