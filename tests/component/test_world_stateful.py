"""The whole system under a hostile broker and dying processes: every workflow over both buses, real code and databases;
messages lost, repeated, shuffled and late, executions lost, cancellations and crashes between any two steps.

Hypothesis chooses what happens; at the end of every run the broker behaves again, time passes, and the oracle reads all
databases and the providers' ledger.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from orderflow import failpoints
from orderflow.contracts import EventBus, Workflow
from tests.support.aws_like.rules import Rules
from tests.support.load import sizes
from tests.support.oracle import check
from tests.support.system import KINDS
from tests.support.world import BUILD, Crash, World, world_on

SERVICES = sorted(BUILD)
OUTCOMES = (
    {}, {}, {"sku": "SOLDOUT-1"}, {"payment_method": "pm_card_declined"}, {"postal_code": "00000"},
    {"items": [{"sku": "MUG-1", "quantity": 1}, {"sku": "BOOK-1", "quantity": 2}, {"sku": "MUG-1", "quantity": 1}]},
)  # fmt: skip

PICK = st.integers(0, 59)
"""One of up to five, whatever their number, each as often."""


class Hostile(RuleBasedStateMachine):
    """What can happen between any two steps."""

    world: ClassVar[World]
    happened: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.placed: list[str] = []
        self.answers: dict[str, list[int]] = {}

    def _waited_for(self, pick: int) -> str:
        """One of the services that messages wait for, or any."""
        # What is drawn depends on nothing here: what waits where also goes by the clock, and Hypothesis repeats draws.
        some = [name for name in SERVICES if self.world.broker.queues[name].waiting] or SERVICES
        return some[pick % len(some)]

    @precondition(lambda self: len(self.placed) < 4)
    @rule(kind=st.sampled_from(KINDS), outcome=st.sampled_from(OUTCOMES))
    def place(self, kind: tuple[Workflow, EventBus], outcome: dict[str, object]) -> None:
        self.placed.append(self.world.place(**outcome, workflow=kind[0], event_bus=kind[1]))

    @precondition(lambda self: self.placed)
    @rule(count=st.integers(1, 6))
    def run_on(self, count: int) -> None:
        """A stretch of ordinary work."""
        for _ in range(count):
            for name in SERVICES:
                self.world.publish(name)
                self.world.deliver(name)

    @precondition(lambda self: self.placed)
    @rule(pick=PICK)
    def deliver(self, pick: int) -> None:
        self.world.deliver(self._waited_for(pick))

    @precondition(lambda self: self.placed)
    @rule(name=st.sampled_from(SERVICES))
    def publish(self, name: str) -> None:
        self.world.publish(name)

    @precondition(lambda self: self.placed)
    @rule(pick=PICK, copies=st.integers(1, 3))
    def repeat(self, pick: int, copies: int) -> None:
        """Everything that waits for a service comes several times."""
        waiting = self.world.broker.queues[self._waited_for(pick)].waiting
        some = list(waiting)[:10]  # repeats of repeats would grow without end
        self.happened["repeated"] += len(some)
        waiting.extend(some * copies)

    @precondition(lambda self: self.placed)
    @rule(pick=PICK, seed=st.integers(0, 2**16))
    def shuffle(self, pick: int, seed: int) -> None:
        queue = self.world.broker.queues[self._waited_for(pick)]
        mixed = list(queue.waiting)
        random.Random(seed).shuffle(mixed)
        queue.waiting.clear()
        queue.waiting.extend(mixed)

    @precondition(lambda self: self.placed)
    @rule(pick=PICK)
    def lose(self, pick: int) -> None:
        """What waits for a service is gone, as in a broker that was wiped."""
        queue = self.world.broker.queues[self._waited_for(pick)]
        self.happened["lost"] += len(queue.waiting)
        queue.waiting.clear()

    @precondition(lambda self: self.placed)
    @rule()
    def lose_executions(self) -> None:
        """The state machine has forgotten all its executions; their guardian starts them again."""
        self.happened["executions lost"] += self.world.broker.machine.lose()

    @precondition(lambda self: self.placed)
    @rule(names=st.permutations(SERVICES), point=st.sampled_from(failpoints.POINTS), skip=st.integers(0, 2))
    def crash(self, names: list[str], point: str, skip: int) -> None:
        """Some process dies at a boundary, while they all work; another one starts."""
        left = [skip]

        def die() -> None:
            if left[0] == 0:
                self.happened[f"crash {point}"] += 1
                raise Crash(point)
            left[0] -= 1

        failpoints.arm(point, die)
        for name in names * 3:
            try:
                self.world.publish(name)
                self.world.deliver(name)
                self.world.services[name].outbox.flush()
            except Crash:
                failpoints.disarm()
                self.world.restart(name)
                break
        failpoints.disarm()

    @precondition(lambda self: len(self.placed) > len(self.answers) + 1)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """At any moment; 409 exactly where it was confirmed, and it never changes afterwards."""
        order_id = data.draw(st.sampled_from(self.placed))
        before = self.world.status(order_id)
        code = self.world.cancel(order_id)
        assert code == (409 if before == "CONFIRMED" else 202), (before, code)
        self.answers.setdefault(order_id, []).append(code)
        self.happened[f"cancel {code}"] += 1

    @precondition(lambda self: self.placed)
    @rule(seconds=st.sampled_from((0, 0, 15, 70)))
    def time_passes(self, seconds: int) -> None:
        """Owners send again, or, after long enough, undo."""
        self.world.pass_time(seconds)

    @precondition(lambda self: self.placed)
    @rule()
    def relay(self) -> None:
        self.world.expire_leases()
        self.world.relay()

    def teardown(self) -> None:
        failpoints.disarm()
        if not self.placed:
            return
        self.world.recover()
        statuses = [self.world.status(order_id) for order_id in self.placed]
        assert set(statuses) <= {"CONFIRMED", "CANCELLED"}, statuses
        check(self.world.urls, acknowledged=self.placed)
        for order_id, codes in self.answers.items():
            # A 202 was a promise.
            assert self.world.status(order_id) == ("CONFIRMED" if codes[0] == 409 else "CANCELLED")
        assert self.world.parked() == []


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    # Time is cheap here: no order is given to an operator for want of patience.
    with world_on(new_database, Rules(1), undo_attempts=10_000) as made:
        yield made


@pytest.mark.row(2, 4, 5)
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("examples", sizes(60, 400))
def test_nothing_is_lost_or_done_twice(world: World, examples: int) -> None:
    """Whatever happens, every order ends, and status, money, goods and stock agree."""
    Hostile.world = world
    run_state_machine_as_test(
        Hostile,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    happened = Hostile.happened
    assert min(happened[what] for what in ("lost", "executions lost", "repeated", "cancel 202")) > 3, happened
    assert sum(n for what, n in happened.items() if what.startswith("crash")) >= examples / 2, happened
