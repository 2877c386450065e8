"""When an execution is started again; the watch over real tables."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.guardian import NEEDS_ATTENTION, Guardian, judge
from orchestrator.watched_executions import ATTENTION, ENDED, WATCHED, Watched
from orderflow import clock
from orderflow import contracts as c
from orderflow.broker.aws.step_functions import Execution
from orderflow.envelope import Envelope, compose, decode
from orderflow.errors import BrokerUnavailable
from tests.support.world import World, world_on
from tests.unit.deploy.test_state_machine import placed


def watched(**changes: Any) -> Watched:
    envelope = placed()
    values = {"order_id": envelope.subject, "placed": envelope, "restarts": 0, "retried": False, "doubted": False}
    return Watched(**values | changes)


@pytest.mark.parametrize(
    ("found", "changes", "state", "restart"),
    [
        (Execution("RUNNING"), {}, WATCHED, False),
        (Execution("RUNNING"), {"retried": True}, WATCHED, False),
        (None, {}, WATCHED, True),
        (None, {"restarts": 20}, ATTENTION, False),
        (None, {"restarts": 20, "retried": True}, WATCHED, True),
        (Execution("SUCCEEDED"), {}, ENDED, False),
        (Execution("SUCCEEDED"), {"doubted": True}, WATCHED, True),
        (Execution("FAILED", "States.Runtime"), {}, WATCHED, True),
        (Execution("TIMED_OUT"), {}, WATCHED, True),
        (Execution("ABORTED"), {}, WATCHED, True),
        (Execution("FAILED", NEEDS_ATTENTION), {}, ATTENTION, False),
        (Execution("FAILED", NEEDS_ATTENTION), {"retried": True}, WATCHED, True),
    ],
)
def test_what_follows_from_a_look(found: Execution | None, changes: dict[str, Any], state: str, restart: bool) -> None:
    """Lost or ended without an answer: again. Given up: an operator first. Ended well: no more looks."""
    verdict = judge(watched(**changes), found, most_restarts=20)
    assert (verdict.state, verdict.restart) == (state, restart)


class Machine:
    """What the guardian asks of Step Functions. `found` is how every execution stands."""

    def __init__(self) -> None:
        self.found: Execution | None = None
        self.started: list[str] = []

    def describe(self, name: str) -> Execution | None:
        return self.found

    def restart(self, envelope: Envelope, name: str) -> None:
        self.started.append(name)


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


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


def test_a_reminder_is_accepted_and_watched(world: World, guardian: tuple[Guardian, Machine]) -> None:
    """The order is told that somebody watches; a lost execution is started again, once more each time it is lost."""
    order_id = remind(world)
    assert told(world, order_id) == ["OrderAccepted"]
    keeper, machine = guardian
    for _ in range(2):
        look(world, keeper)
    assert machine.started == [f"{order_id}-r1", f"{order_id}-r2"]
    machine.found = Execution("SUCCEEDED")
    look(world, keeper)
    assert state_of(world, order_id) == (ENDED, 2)
    look(world, keeper)
    assert len(machine.started) == 2


def test_one_that_can_not_be_looked_after_keeps_no_other(
    world: World, guardian: tuple[Guardian, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted((remind(world), remind(world)))
    keeper, machine = guardian
    describe = machine.describe

    def stumble(name: str) -> Execution | None:
        if first in name:
            raise KeyError("an answer that nobody thought of")
        return describe(name)

    monkeypatch.setattr(machine, "describe", stumble)
    look(world, keeper)
    assert machine.started == [f"{second}-r1"]
    monkeypatch.undo()
    look(world, keeper)
    assert f"{first}-r1" in machine.started
    machine.found = Execution("SUCCEEDED")
    look(world, keeper)
    assert {state_of(world, order_id)[0] for order_id in (first, second)} == {ENDED}


def test_a_guardian_that_dies_holds_its_orders_up_for_one_lease(
    world: World, guardian: tuple[Guardian, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one whose broker goes away: what it had taken belongs to it no longer than any message or intent would."""
    order_id = remind(world)
    _, machine = guardian
    keeper = guarding(world, machine, itertools.count(0, 60).__next__, lease=3.0)

    def gone(name: str) -> None:
        raise BrokerUnavailable("it is down")

    monkeypatch.setattr(machine, "describe", gone)
    with pytest.raises(BrokerUnavailable):
        look(world, keeper)
    again = "SELECT next_at > now(), next_at <= now() + interval '3 s' FROM executions WHERE order_id = %s"
    assert world.execute("orchestrator", again, [order_id]) == [(True, True)]
    monkeypatch.undo()
    look(world, keeper)
    assert machine.started == [f"{order_id}-r1"]


def test_looks_stay_within_the_quota(
    world: World, guardian: tuple[Guardian, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DescribeExecution is 15 per second for a whole account. However many wait, a turn makes ten calls at most; a
    throttled guardian makes one, and then none until it has rested, at most ten seconds."""
    for _ in range(25):
        remind(world)
    _, machine = guardian
    at = [0.0]
    keeper = guarding(world, machine, lambda: at[0])
    calls: list[str] = []
    throttled = False

    def describe(name: str) -> Execution | None:
        calls.append(name)
        if throttled:
            raise BrokerUnavailable("ThrottlingException")
        return Execution("RUNNING")

    monkeypatch.setattr(machine, "describe", describe)
    world.execute("orchestrator", "UPDATE executions SET next_at = now() WHERE state = 'watched'")
    assert [keeper.sweep(0), len(calls)] == [False, 10]
    throttled = True
    for _ in range(8):
        calls.clear()
        with pytest.raises(BrokerUnavailable):
            look(world, keeper)
        look(world, keeper)
        assert len(calls) == 1
        at[0] += 10
    throttled = False
    look(world, keeper)
    assert len(calls) == 11
    world.execute("orchestrator", "UPDATE executions SET state = 'ended'")


def test_an_execution_that_runs_is_looked_at_less_and_less(world: World, guardian: tuple[Guardian, Machine]) -> None:
    """After half of the time that it has been watched: ten seconds at first, five minutes at most."""
    order_id = remind(world)
    keeper, machine = guardian
    machine.found = Execution("RUNNING")
    watched_for = "UPDATE executions SET created_at = now() - make_interval(secs => %s) WHERE order_id = %s"
    next_look = "SELECT round(extract(epoch FROM next_at - updated_at)) FROM executions WHERE order_id = %s"
    waits = []
    for seconds in (0, 60, 3600):
        world.execute("orchestrator", watched_for, [seconds, order_id])
        world.execute(
            "orchestrator", "UPDATE executions SET next_at = now() + interval '1 h' WHERE order_id <> %s", [order_id]
        )
        world.execute("orchestrator", "UPDATE executions SET next_at = now() WHERE order_id = %s", [order_id])
        keeper.sweep(0)
        waits.append(int(world.execute("orchestrator", next_look, [order_id])[0][0]))
    assert waits == [10, 30, 300]


def test_an_operator_retries(world: World, guardian: tuple[Guardian, Machine]) -> None:
    """An execution that gave up waits for it; the order is told so."""
    order_id = remind(world)
    keeper, machine = guardian
    machine.found = Execution("FAILED", NEEDS_ATTENTION)
    look(world, keeper)
    look(world, keeper)
    assert state_of(world, order_id) == (ATTENTION, 0)
    retry(world, order_id)
    look(world, keeper)
    assert machine.started == [f"{order_id}-r1"]
    assert told(world, order_id).count("OrderNeedsAttention") == 1


@pytest.mark.parametrize("status", ["FAILED", "RUNNING"])
def test_a_retry_that_comes_during_a_look_is_heard(
    world: World, guardian: tuple[Guardian, Machine], monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """The guardian has just found that the execution gave up, or that it is about to: the operator's word counts."""
    order_id = remind(world)
    keeper, machine = guardian
    gave_up = Execution("FAILED", NEEDS_ATTENTION)

    def meanwhile(name: str) -> Execution:
        retry(world, order_id)
        machine.found = gave_up
        return gave_up if status == "FAILED" else Execution(status)

    with monkeypatch.context() as patched:
        patched.setattr(machine, "describe", meanwhile)
        look(world, keeper)
    assert state_of(world, order_id) == (WATCHED, 0)
    look(world, keeper)
    assert machine.started == [f"{order_id}-r1"]
    machine.found = Execution("RUNNING")
    look(world, keeper)
    machine.found = Execution("SUCCEEDED")
    look(world, keeper)
    assert state_of(world, order_id) == (ENDED, 1)
    assert "OrderNeedsAttention" not in told(world, order_id)


def test_a_look_that_another_guardian_has_overtaken_says_nothing(
    world: World, guardian: tuple[Guardian, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had found that the first execution gave up; meanwhile an operator came, and the other started the second."""
    order_id = remind(world)
    keeper, machine = guardian
    other = guarding(world, machine)
    machine.found = Execution("FAILED", NEEDS_ATTENTION)

    def meanwhile(name: str) -> Execution:
        patched.undo()
        retry(world, order_id)
        look(world, other)
        return Execution("FAILED", NEEDS_ATTENTION)

    with monkeypatch.context() as patched:
        patched.setattr(machine, "describe", meanwhile)
        look(world, keeper)
    assert machine.started == [f"{order_id}-r1"]
    assert state_of(world, order_id) == (WATCHED, 1)
    assert "OrderNeedsAttention" not in told(world, order_id)


def test_a_retry_of_an_execution_that_still_runs_stays(world: World, guardian: tuple[Guardian, Machine]) -> None:
    """It tells the order that it needs an operator a moment before it ends."""
    order_id = remind(world)
    keeper, machine = guardian
    retry(world, order_id)
    machine.found = Execution("RUNNING")
    look(world, keeper)
    machine.found = Execution("FAILED", NEEDS_ATTENTION)
    look(world, keeper)
    assert machine.started == [f"{order_id}-r1"]


def test_other_messages_of_such_orders_are_parked(world: World) -> None:
    """An outcome for the orchestrator of an order that a state machine runs is somebody's forgery."""
    forged = compose(
        c.StockReleased(), source="x", order_id=clock.new_id(),
        workflow=c.Workflow.STEP_FUNCTIONS, event_bus=c.EventBus.SNS,
    )  # fmt: skip
    world.broker.queues["orchestrator"].put(forged.encode())
    world.deliver("orchestrator")
    assert "is for its state machine" in world.parked()[-1][1]
