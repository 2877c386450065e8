"""FAULTS row 6: the broker stops answering, and comes back with everything; or dies, and comes back with nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from orderflow.contracts import EventBus, Workflow
from tests.support import parts
from tests.support.aims import within
from tests.support.load import Load, sizes
from tests.support.logs import LoggedSince
from tests.support.processes import replaced
from tests.support.system import System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("faults-system"), pytest.mark.row(6)]

BACK = 120.0
"""Seconds from the broker's return until every order is terminal."""

Kinds = tuple[tuple[Workflow, EventBus], ...]


@pytest.mark.parametrize("seconds", sizes(13, 30))  # clients wait ten seconds for an answer
@pytest.mark.extra
def test_the_broker_is_silent_for_a_while(
    system: System, seed: int, kinds: Kinds, seconds: int, measured: Callable[..., None]
) -> None:
    """Orders are still accepted, and end correctly once the broker answers again."""
    logged = LoggedSince(system, "order", "inventory", "payment")
    with Load(system, kinds, rate=8, total=8 * (seconds + 6), seed=seed) as load:
        load.until_taken(16)
        parts.kill(system.runtime, "localstack", signal.SIGSTOP)
        try:
            before = len(load.acknowledged)
            time.sleep(seconds)
            assert len(load.acknowledged) > before, "orders are accepted while it is unavailable"
        finally:
            parts.kill(system.runtime, "localstack", signal.SIGCONT)
        back = time.monotonic()
        taken = load.finish()
    assert load.answers.keys() == {202}, load.answers
    system.until_terminal(*taken, seconds=within(BACK) - (time.monotonic() - back))
    felt = len(logged.lines("broker unavailable")) + len(logged.lines("destination unavailable"))
    measured(orders=len(taken), silent_s=seconds, felt=felt, terminal_s=time.monotonic() - back)
    system.check(acknowledged=taken)
    system.no_dead_letters()
    assert felt, "the fault was felt"


@pytest.mark.parametrize("times", sizes(1, 3))
def test_the_broker_is_wiped(
    system: System, seed: int, kinds: Kinds, times: int, measured: Callable[..., None]
) -> None:
    """The broker is killed with all queues, subscriptions, rules and executions, and comes back empty. The stack is
    deployed again automatically, nothing is published before that, orders end correctly, nobody is charged twice."""
    lost = 0
    with Load(system, kinds, rate=8, total=120 * times, seed=seed) as load:
        for number in range(times):
            load.until_taken(120 * number + 40)
            system.aws("sqs").create_queue(QueueName="made-by-hand")
            lost += sum(system.waiting().values())
            killed = parts.kill(system.runtime, "localstack")
            replaced(system, "localstack", killed)
            system.until_ready()
            back = time.monotonic()
            left = system.aws("sqs").list_queues(QueueNamePrefix="made-by-hand")
            assert "QueueUrls" not in left, "it came back empty"
        taken = load.finish()
    system.until_terminal(*taken, seconds=within(BACK) - (time.monotonic() - back))
    print(f"answers {dict(load.answers)}")
    measured(orders=len(taken), wiped=times, lost_messages=lost, terminal_s=time.monotonic() - back)
    system.check(acknowledged=taken)
    system.no_dead_letters()
