"""The three-phase provider call, the same for payment and shipping: fences, crashes, batches, the pool."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from orderflow import clock, failpoints
from orderflow.envelope import Envelope
from orderflow.messaging.guard import DeadLettered, Done, Retry
from tests.support.provider_kinds import POLICY
from tests.support.provider_process import Process, ProviderWorld, ask, bring_to, fail, kinds_of, names
from tests.support.threads import Gate, in_background
from tests.support.world import Crash

AROUND = ("intent.before", "commit.before:1", "commit.after:1", "intent.after", "commit.before:2", "commit.after:2")
"""Where a process can die in the first and the last phase."""


@pytest.mark.row(3)
class TestFence:
    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_an_undo_overtakes_a_call_in_flight(self, world: ProviderWorld, order_id: str, moment: str) -> None:
        """The call's answer no longer counts: it is refused as undone, and the ledger is even; whether the call reached
        the provider before the undo or after it."""
        slow, fast = world.process(), world.process()
        gate = Gate()
        getattr(slow.hooks, moment)["do"] = gate.pass_through
        call = in_background(lambda: slow.handle(ask(world.kind.good, order_id)))
        gate.wait()
        assert kinds_of(fast.handle(ask(world.kind.undo, order_id))) == [Done]
        assert world.row(order_id) == ("undone", 2)
        gate.open()
        assert kinds_of(call.result(10)) == [Done]
        assert names(world.outcomes(order_id)) == [world.kind.undone, world.kind.refusal + ":undone"]
        reached = moment == "after"
        assert world.entries(order_id) == ([world.kind.does, world.kind.undoes] if reached else [])
        assert world.row(order_id) == ("undone", 2)

    def test_the_call_answers_while_the_undo_is_in_flight(self, world: ProviderWorld, order_id: str) -> None:
        """The fence has been raised already: the late success is not recorded."""
        slow, fast = world.process(), world.process()
        call_gate, undo_gate = Gate(), Gate()
        slow.hooks.after["do"] = call_gate.pass_through
        fast.hooks.before["void"] = undo_gate.pass_through
        call = in_background(lambda: slow.handle(ask(world.kind.good, order_id)))
        call_gate.wait()
        undo = in_background(lambda: fast.handle(ask(world.kind.undo, order_id)))
        undo_gate.wait()
        call_gate.open()
        assert kinds_of(call.result(10)) == [Done]
        assert world.row(order_id) == ("undoing", 2)
        undo_gate.open()
        assert kinds_of(undo.result(10)) == [Done]
        assert names(world.outcomes(order_id)) == [world.kind.refusal + ":undone", world.kind.undone]
        assert world.entries(order_id) == [world.kind.does, world.kind.undoes]

    def test_a_process_that_outlived_its_lease_changes_nothing(self, world: ProviderWorld, order_id: str) -> None:
        """Its twin took the same message over and answered; the sleeper's answer is neither recorded nor sent."""
        sleeper, twin = world.process(), world.process()
        gate = Gate()
        sleeper.hooks.after["do"] = gate.pass_through
        message = ask(world.kind.good, order_id)
        call = in_background(lambda: sleeper.handle(message))
        gate.wait()
        assert kinds_of(twin.handle(message)) == [Retry]
        world.expire_lease(order_id)
        assert kinds_of(twin.handle(message)) == [Done]
        gate.open()
        assert kinds_of(call.result(10)) == [Retry]
        assert kinds_of(sleeper.handle(message)) == [Done]
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert world.entries(order_id) == [world.kind.does]

    def test_a_stale_unknown_outcome_frees_nothing(self, world: ProviderWorld, order_id: str) -> None:
        """A sleeper without an answer must not release the lease of the one that took over."""
        sleeper, twin, third = (world.process() for _ in range(3))
        asleep, at_work = Gate(), Gate()
        sleeper.hooks.before["do"] = lambda: (asleep.pass_through(), fail())
        twin.hooks.before["do"] = at_work.pass_through
        message = ask(world.kind.good, order_id)
        sleeping = in_background(lambda: sleeper.handle(message))
        asleep.wait()
        world.expire_lease(order_id)
        working = in_background(lambda: twin.handle(message))
        at_work.wait()
        asleep.open()
        assert kinds_of(sleeping.result(10)) == [Retry]
        assert kinds_of(third.handle(message)) == [Retry]
        assert third.hooks.calls == {}
        at_work.open()
        assert kinds_of(working.result(10)) == [Done]
        assert (world.row(order_id), names(world.outcomes(order_id))) == (("done", 2), [world.kind.success])

    def test_a_twin_spoils_only_its_own_message(self, world: ProviderWorld, order_id: str) -> None:
        """The others of the batch keep what the provider answered."""
        sleeper, twin = world.process(), world.process()
        gate = Gate()
        first = iter([gate.pass_through])
        sleeper.hooks.after["do"] = lambda: next(first, lambda: None)()
        contested, other = ask(world.kind.good, order_id), ask(world.kind.good)
        call = in_background(lambda: sleeper.handle(contested, other))
        gate.wait()
        world.expire_lease(order_id)
        assert kinds_of(twin.handle(contested)) == [Done]
        gate.open()
        assert kinds_of(call.result(10)) == [Retry, Done]
        assert names(world.outcomes(order_id)) == names(world.outcomes(other.subject)) == [world.kind.success]


@pytest.mark.row(2)
class TestCrash:
    @pytest.mark.parametrize("point", [*AROUND, "call.before", "call.after"])
    def test_a_command_survives_a_crash(self, world: ProviderWorld, order_id: str, point: str) -> None:
        """Wherever the process died: the message comes again, and there is one call's effect and one outcome."""
        message = ask(world.kind.good, order_id)
        self.die_at(point, world, message)
        assert kinds_of(world.process().handle(message)) == [Done]
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert world.entries(order_id) == [world.kind.does]

    @pytest.mark.parametrize("point", [*AROUND, "undo.before", "undo.after"])
    @pytest.mark.parametrize("state", ["absent", "done"])
    def test_an_undo_survives_a_crash(self, world: ProviderWorld, order_id: str, point: str, state: str) -> None:
        """Likewise; given back once."""
        if state == "done":
            bring_to("done", world, order_id)
        message = ask(world.kind.undo, order_id)
        self.die_at(point, world, message)
        assert kinds_of(world.process().handle(message)) == [Done]
        assert names(world.outcomes(order_id)) == [world.kind.undone]
        assert world.entries(order_id) == ([world.kind.does, world.kind.undoes] if state == "done" else [])

    def die_at(self, spec: str, world: ProviderWorld, message: Envelope) -> None:
        point, _, nth = spec.partition(":")
        left = [int(nth or 1)]

        def die() -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Crash

        failpoints.arm(point, die)
        with pytest.raises(Crash):
            world.process().handle(message)
        failpoints.disarm()
        world.expire_lease(message.subject)


class TestBatch:
    def test_do_and_undo_mix(self, world: ProviderWorld, process: Process) -> None:
        """Every message of a batch gets its own outcome; what comes second for an order sees what came first."""
        kind = world.kind
        new, refused, absent, done, twice = (clock.new_id() for _ in range(5))
        bring_to("done", world, done)
        verdicts = process.handle(
            ask(kind.good, new), ask(kind.undo, absent), ask(kind.bad, refused),
            ask(kind.good, twice), ask(kind.undo, done), ask(kind.undo, twice),
        )  # fmt: skip
        assert kinds_of(verdicts) == [Done] * 6
        assert names(world.outcomes(new)) == [kind.success]
        assert names(world.outcomes(refused)) == [kind.refusal]
        assert names(world.outcomes(absent)) == names(world.outcomes(done)) == [kind.undone]
        assert names(world.outcomes(twice)) == [kind.success, kind.undone]
        assert world.entries(twice) == world.entries(done) == [kind.does, kind.undoes]

    def test_the_slow_one_holds_nobody_up(self, world: ProviderWorld, order_id: str) -> None:
        """The others are recorded; its verdict comes when its answer does."""
        pool = ThreadPoolExecutor(4)
        process = world.process(executor=pool)
        gate = Gate()
        first = iter([gate.pass_through])
        process.hooks.before["do"] = lambda: next(first, lambda: None)()
        slow, quick = clock.new_id(), clock.new_id()
        verdict, other = process.processor.process([ask(world.kind.good, slow), ask(world.kind.undo, quick)])
        assert isinstance(other, Done)
        assert (names(world.outcomes(slow)), names(world.outcomes(quick))) == ([], [world.kind.undone])
        gate.open()
        assert isinstance(verdict.result(10), Done)
        assert names(world.outcomes(slow)) == [world.kind.success]
        pool.shutdown()

    def test_a_bug_in_a_client_is_counted_against_its_message_only(
        self, world: ProviderWorld, process: Process
    ) -> None:
        """The fifth failure parks it; the others of its batch have their outcome."""
        bad, good = clock.new_id(), clock.new_id()
        original = process.provider.void
        process.provider.void = lambda key, order_id: 1 / 0 if order_id == bad else original(key, order_id)
        message = ask(world.kind.undo, bad)
        verdicts = process.handle(message, ask(world.kind.undo, good))
        assert kinds_of(verdicts) == [Retry, Done]
        assert names(world.outcomes(good)) == [world.kind.undone]
        assert [kinds_of(process.handle(message)) for _ in range(4)] == [[Retry]] * 3 + [[DeadLettered]]

    def test_the_pool_is_bounded(self, world: ProviderWorld) -> None:
        """With all places taken, the next call waits for one: it would only use up its lease in a queue."""
        pool = ThreadPoolExecutor(1)
        process = world.process(replace(POLICY, concurrency=1), executor=pool)
        gate = Gate()
        process.hooks.before["do"] = gate.pass_through
        first = process.processor.process([ask(world.kind.good, clock.new_id())])[0]
        second = in_background(lambda: process.application.submit(lambda: "ran"))
        assert not second.done()
        gate.open()
        assert isinstance(first.result(10), Done)
        assert second.result(10).result(10) == "ran"
        pool.shutdown()
