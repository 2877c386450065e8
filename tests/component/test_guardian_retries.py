"""Executions that wait for an operator: started again once it retries, whatever a look finds meanwhile."""

from __future__ import annotations

import pytest

from orchestrator.guardian import NEEDS_ATTENTION, Guardian
from orchestrator.watched_executions import ATTENTION, ENDED, WATCHED
from orderflow import clock
from orderflow import contracts as c
from orderflow.broker.aws.step_functions import Execution
from orderflow.envelope import compose
from tests.support.guardians import Machine, guarding, look, remind, retry, state_of, told
from tests.support.world import World


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


def test_other_messages_of_such_orders_are_dead_lettered(world: World) -> None:
    """An outcome for the orchestrator of an order that a state machine runs is somebody's forgery."""
    forged = compose(
        c.StockReleased(), source="x", order_id=clock.new_id(),
        workflow=c.Workflow.STEP_FUNCTIONS, event_bus=c.EventBus.SNS,
    )  # fmt: skip
    world.broker.queues["orchestrator"].put(forged.encode())
    world.deliver("orchestrator")
    assert "is for its state machine" in world.parked()[-1][1]
