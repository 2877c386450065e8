"""What waits for a provider, when two processes have it at once, and wherever one of them dies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from orderflow import clock, failpoints
from orderflow.messaging.guard import Done, Retry
from tests.support.provider_kinds import POLICY
from tests.support.provider_process import Process, ProviderWorld, ask, bring_to, fail, kinds_of, names
from tests.support.provider_waiting import ONCE, token, wait_for_provider
from tests.support.threads import Gate, in_background
from tests.support.world import Crash

pytestmark = pytest.mark.row(30)


class TestRaces:
    def test_two_processes_share_what_is_due(self, world: ProviderWorld) -> None:
        """Nothing is called twice: each takes what the other has not."""
        orders = [clock.new_id() for _ in range(6)]
        wait_for_provider(world, *orders)
        one, two = world.process(replace(POLICY, concurrency=16)), world.process(replace(POLICY, concurrency=16))
        world.make_due()
        took = [process.retrying.step() for process in (one, two, one, two)]
        assert took == [4, 2, 0, 0]
        assert one.hooks.calls + two.hooks.calls == {"do": 6}
        assert all(names(world.outcomes(order_id)) == [world.kind.success] for order_id in orders)

    def test_a_resend_meets_the_call_in_flight(self, world: ProviderWorld, process: Process, order_id: str) -> None:
        """It starts no second one, and is the one that is answered."""
        pool = ThreadPoolExecutor(2)
        caller = world.process(executor=pool)
        wait_for_provider(world, order_id)
        gate = Gate()
        caller.hooks.before["do"] = gate.pass_through
        world.make_due()
        assert caller.retrying.step() == 1
        gate.wait()
        resent = token(ask(world.kind.good, order_id).again(), "t-1")
        assert kinds_of(process.handle(resent)) == [Done]
        assert process.retrying.step() == 0, "the lease is the other's"
        gate.open()
        pool.shutdown()
        assert [(e.name, e.tasktoken) for e in world.envelopes(order_id)] == [(world.kind.success, "t-1")]
        assert process.hooks.calls == {}

    def test_a_caller_that_outlived_its_lease_changes_nothing(self, world: ProviderWorld, order_id: str) -> None:
        """Its successor's answer is told; its own lack of one frees nothing and counts no try."""
        pool = ThreadPoolExecutor(1)
        sleeper, twin = world.process(ONCE, executor=pool), world.process()
        wait_for_provider(world, order_id)
        gate = Gate()
        sleeper.hooks.before["do"] = lambda: (gate.pass_through(), fail())
        world.make_due()
        assert sleeper.retrying.step() == 1
        gate.wait()
        world.expire_lease(order_id)
        assert world.call_again(twin) == 1
        gate.open()
        pool.shutdown()
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert (world.row(order_id), world.waits(order_id)) == (("done", 3), None)

    def test_a_twin_of_the_first_call_waits_as_before(self, world: ProviderWorld, order_id: str) -> None:
        """Nothing waits in the database yet, and the call may answer in a moment: the queue keeps the twin."""
        slow, twin = world.process(), world.process()
        gate = Gate()
        slow.hooks.before["do"] = gate.pass_through
        message = ask(world.kind.good, order_id)
        call = in_background(lambda: slow.handle(message))
        gate.wait()
        assert kinds_of(twin.handle(message)) == [Retry]
        assert world.waits(order_id) is None
        gate.open()
        assert kinds_of(call.result(10)) == [Done]

    def test_what_an_older_release_recorded_is_told(
        self, world: ProviderWorld, process: Process, order_id: str
    ) -> None:
        """It takes what waits by a resend of its message, and knows no place to give up."""
        wait_for_provider(world, order_id)
        world.sql(f"UPDATE {world.kind.table} SET state = 'done', reference = 'x' WHERE order_id = %s", order_id)
        assert world.call_again(process) == 1
        assert (names(world.outcomes(order_id)), world.waits(order_id)) == ([world.kind.success], None)
        assert process.hooks.calls == {}


class TestCrash:
    @pytest.mark.parametrize("undo", [False, True], ids=["step", "undo"])
    @pytest.mark.parametrize(
        "spec",
        [
            "commit.before:1", "commit.after:1", "retry.before", "retry.after", "intent.after", "call.before",
            "call.after", "commit.before:2", "commit.after:2",
        ],
    )  # fmt: skip
    def test_what_waits_survives_a_crash(self, world: ProviderWorld, order_id: str, spec: str, *, undo: bool) -> None:
        """At every boundary of the process that calls again; the next process, cold, ends it with one effect."""
        if undo:
            spec = spec.replace("call.", "undo.")
            bring_to("done", world, order_id)
        wait_for_provider(world, order_id, undo=undo)
        point, _, nth = spec.partition(":")
        left = [int(nth or 1)]

        def die() -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Crash

        failpoints.arm(point, die)
        with pytest.raises(Crash):
            world.call_again(world.process())
        failpoints.disarm()
        world.expire_lease(order_id)
        world.call_again(world.process())
        assert names(world.outcomes(order_id)) == [world.kind.undone if undo else world.kind.success]
        assert world.entries(order_id) == [world.kind.does, world.kind.undoes][: 2 if undo else 1]
        assert world.waits(order_id) is None

    @pytest.mark.parametrize("nth", [1, 2])
    @pytest.mark.parametrize("point", ["commit.before", "commit.after"])
    def test_a_crash_as_it_begins_to_wait(self, world: ProviderWorld, order_id: str, point: str, nth: int) -> None:
        """Its message comes again where it was not acknowledged, and asks again or is known."""
        message = ask(world.kind.good, order_id)
        left = [nth]

        def die() -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Crash

        process = world.process(ONCE)
        process.hooks.before["do"] = fail
        failpoints.arm(point, die)
        with pytest.raises(Crash):
            process.handle(message)
        failpoints.disarm()
        world.expire_lease(order_id)
        later = world.process()
        assert kinds_of(later.handle(message)) == [Done]
        world.call_again(later)
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert world.entries(order_id) == [world.kind.does]
