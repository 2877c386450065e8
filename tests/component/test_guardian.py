"""When an execution is started again; the watch over real tables."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from orchestrator.guardian import NEEDS_ATTENTION, Guardian, judge
from orchestrator.watched_executions import ATTENTION, ENDED, WATCHED
from orderflow.broker.aws.step_functions import Execution
from orderflow.errors import BrokerUnavailable
from tests.support.guardians import Machine, guarding, look, remind, state_of, told, watched
from tests.support.world import World


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
