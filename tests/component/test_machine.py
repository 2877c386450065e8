"""The state machine that the world runs in this process behaves as Step Functions does (test_step_functions.py has the
emulator's): once by its name, once by its token, in its time; and its guardian looks after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from orderflow.broker import Parcel
from orderflow.broker.aws.step_functions import spent_tokens
from orderflow.contracts import Workflow
from orderflow.envelope import Envelope, decode
from tests.support.asl import Execution
from tests.support.oracle import check
from tests.support.world import World, world_on


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


@pytest.fixture
def started(world: World) -> Execution:
    """An execution that has just begun."""
    order_id = world.place(workflow=Workflow.STEP_FUNCTIONS)
    world.publish("order")
    return world.broker.machine.executions[order_id]


def ended(world: World, execution: Execution) -> str:
    """Its order's status, once nothing moves any more; all adds up."""
    world.settle()
    check(world.urls)
    return world.status(execution.sent[0].subject)


def answers(world: World, name: str) -> list[Envelope]:
    """What a service has handled and is about to send."""
    world.deliver(name)
    return [decode(body) for (body,) in world.execute(name, "SELECT body FROM outbox ORDER BY entry")]


def test_it_is_started_once(world: World, started: Execution) -> None:
    """Its name is the order's id."""
    before = len(world.broker.machine.executions)
    placed = [decode(body) for (body,) in world.execute("order", "SELECT body FROM outbox")]
    world.broker.step_functions.start([Parcel(e, e.encode()) for e in placed])
    assert placed
    assert len(world.broker.machine.executions) == before
    assert ended(world, started) == "CONFIRMED"
    assert [e.name for e in started.sent] == ["ReserveStock", "ChargePayment", "ScheduleShipment", "ConfirmOrder"]


def test_a_token_is_good_once(world: World, started: Execution) -> None:
    """The second time it is as spent as a forged one; neither is a failure."""
    [reserved] = answers(world, "inventory")
    forged = reserved.model_copy(update={"tasktoken": "forged"})
    before = spent_tokens[("InvalidToken",)]
    for envelope in (forged, reserved, reserved, forged):
        assert not world.broker.step_functions.answer([Parcel(envelope, envelope.encode())])
    assert spent_tokens[("InvalidToken",)] == before + 3
    assert [e.name for e in started.sent] == ["ReserveStock", "ChargePayment"]
    assert ended(world, started) == "CONFIRMED"


def test_a_late_answer_is_nobodys(world: World, started: Execution) -> None:
    """Its task has timed out and was entered again, with another token; that one is answered from the row."""
    [reserved] = answers(world, "inventory")
    world.broker.machine.pass_time(10)
    assert [e.resend for e in started.sent] == [0, 1]
    assert started.sent[1].tasktoken != reserved.tasktoken
    before = spent_tokens[("InvalidToken",)]
    world.publish("inventory")
    assert spent_tokens[("InvalidToken",)] == before + 1
    assert ended(world, started) == "CONFIRMED"


def test_it_undoes_at_its_deadline(world: World, started: Execution) -> None:
    """A minute without an answer; resent three times meanwhile."""
    world.broker.queues["inventory"].waiting.clear()
    world.broker.machine.pass_time(59)
    assert len(world.broker.queues["inventory"].waiting) == 3
    assert "CancelOrder" not in started.states
    world.broker.machine.pass_time(1)
    assert started.states[-1] == "CancelOrder"
    assert ended(world, started) == "CANCELLED"


def test_what_is_lost_is_started_again(world: World, started: Execution) -> None:
    """By its guardian, as often as it is lost; and the saga is told from what is left."""
    order_id = started.sent[0].subject
    for _ in range(2):
        world.broker.machine.lose()
        for _ in range(50):  # a receive may give nothing yet
            world.pass_time()  # the order reminds, and the guardian looks
            world.deliver("order")
            world.publish("order")
            world.deliver("orchestrator")
            if world.broker.machine.executions:
                break
    assert list(world.broker.machine.executions) == [f"{order_id}-r2"]
    assert ended(world, started) == "CONFIRMED"
    told = world.http("orchestrator").get(f"/sagas/{order_id}").json
    assert told["state"] == "CONFIRMED"
    commands = [line["type"] for line in told["log"] if line["kind"] == "command"]
    assert commands == ["ReserveStock", "ChargePayment", "ScheduleShipment", "ConfirmOrder"]
