"""The three-phase provider call, the same for payment and shipping: states, fences, twins, crashes, key life."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from orderflow import clock, failpoints
from orderflow.errors import UnknownOutcome
from orderflow.processor import Done, Later, Park
from tests.support.steps import LIMITS, PAYMENT, SHIPPING, Gate, Process, World, ask, in_background, names

AROUND = ("intent.before", "commit.before:1", "commit.after:1", "intent.after", "commit.before:2", "commit.after:2")
"""Where a process can die in the first and the last phase."""


class Crash(BaseException):
    """The death of a process, for a test within one."""


@pytest.fixture(scope="module", params=[PAYMENT, SHIPPING], ids=lambda kind: kind.service)
def world(request: pytest.FixtureRequest, new_database: Callable[[str | None], str]) -> Iterator[World]:
    found = World(request.param, new_database(request.param.service), new_database(None))
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _processes_end(world: World) -> Iterator[None]:
    yield
    world.stop_processes()


@pytest.fixture
def process(world: World) -> Process:
    return world.process()


@pytest.fixture
def order_id() -> str:
    return clock.new_id()


def kinds_of(verdicts: list[object]) -> list[type]:
    return [type(v) for v in verdicts]


def bring_to(state: str, world: World, order_id: str) -> None:
    """Puts an order's row into a state, as a process that did that would have left it."""
    helper = world.process()
    kind = world.kind
    if state in ("done", "undone", "undoing"):
        assert kinds_of(helper.handle(ask(kind.good, order_id))) == [Done]
    if state == "undone":
        assert kinds_of(helper.handle(ask(kind.undo, order_id))) == [Done]
    if state == "refused":
        assert kinds_of(helper.handle(ask(kind.bad, order_id))) == [Done]
    if state in ("intended", "undoing"):
        failpoints.arm("intent.after", crash)
        with pytest.raises(Crash):
            helper.handle(ask(kind.good if state == "intended" else kind.undo, order_id))
        failpoints.disarm()
    assert world.row(order_id)[0] == state
    world.sql("DELETE FROM outbox WHERE order_id = %s", order_id)


def crash() -> None:
    raise Crash


class TestDo:
    def test_a_new_order_is_called_once_and_answered(self, world: World, process: Process, order_id: str) -> None:
        """absent → intended → done"""
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        assert world.row(order_id) == ("done", 1)
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert world.entries(order_id) == [world.kind.does]

    def test_a_refusal_is_the_providers_word(self, world: World, process: Process, order_id: str) -> None:
        """absent → intended → refused, with the provider's reason and nothing in its ledger"""
        process.handle(ask(world.kind.bad, order_id))
        [outcome] = world.outcomes(order_id)
        assert (type(outcome).__name__, world.entries(order_id)) == (world.kind.refusal, [])
        assert outcome.reason in ("card declined", "undeliverable address")

    @pytest.mark.parametrize("state", ["done", "refused", "undoing", "undone"])
    def test_a_settled_order_is_answered_from_its_row(
        self, world: World, process: Process, order_id: str, state: str
    ) -> None:
        """Another command for the same order, with another message id, causes the same outcome and no call."""
        bring_to(state, world, order_id)
        before = world.row(order_id)
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        expected = {"done": world.kind.success, "refused": world.kind.refusal}.get(
            state, world.kind.refusal + ":undone"
        )
        assert names(world.outcomes(order_id)) == [expected]
        assert world.row(order_id) == before
        assert not process.hooks.calls

    def test_an_intent_of_another_process_waits(self, world: World, process: Process, order_id: str) -> None:
        """While the lease runs, nobody else calls."""
        bring_to("intended", world, order_id)
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Later]
        assert (world.row(order_id), world.outcomes(order_id)) == (("intended", 1), [])
        assert not process.hooks.calls

    def test_an_intent_whose_process_died_is_taken_over(self, world: World, process: Process, order_id: str) -> None:
        """After the lease the fence grows, and the call is made under the same key."""
        bring_to("intended", world, order_id)
        world.expire_lease(order_id)
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        assert world.row(order_id) == ("done", 2)
        assert names(world.outcomes(order_id)) == [world.kind.success]


class TestUndo:
    @pytest.mark.parametrize("state", ["absent", "intended", "done", "refused", "undoing", "undone"])
    def test_every_state_ends_undone(self, world: World, process: Process, order_id: str, state: str) -> None:
        """The outcome says that the step can't happen any more; the late command is refused, and the ledger is even."""
        if state != "absent":
            bring_to(state, world, order_id)
        if state == "undoing":
            world.expire_lease(order_id)
        assert kinds_of(process.handle(ask(world.kind.undo, order_id))) == [Done]
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        assert names(world.outcomes(order_id)) == [world.kind.undone, world.kind.refusal + ":undone"]
        assert world.row(order_id)[0] == "undone"
        assert process.hooks.calls == ({} if state == "undone" else {"void": 1})
        done = state in ("done", "undoing", "undone")
        assert world.entries(order_id) == ([world.kind.does, world.kind.undoes] if done else [])

    def test_the_outcome_tells_what_was_taken_back(self, world: World, process: Process, order_id: str) -> None:
        """Also the second time, from the row; and nothing where there had been nothing."""
        process.handle(ask(world.kind.good, order_id))
        process.handle(ask(world.kind.undo, order_id))
        process.handle(ask(world.kind.undo, order_id))
        process.handle(ask(world.kind.undo, nothing := clock.new_id()))
        done, first, second = world.outcomes(order_id)
        assert first == second
        if world.kind is PAYMENT:
            assert first.amount == done.amount
        else:
            assert first.shipment_id == done.shipment_id
        [empty] = world.outcomes(nothing)
        assert empty.model_dump(exclude_none=True) == {}

    def test_an_undo_of_another_process_waits(self, world: World, process: Process, order_id: str) -> None:
        """While the lease runs, nobody else voids."""
        bring_to("undoing", world, order_id)
        assert kinds_of(process.handle(ask(world.kind.undo, order_id))) == [Later]
        assert (world.outcomes(order_id), process.hooks.calls) == ([], {})

    def test_an_undo_without_an_answer_is_tried_again(self, world: World, process: Process, order_id: str) -> None:
        """The row stays `undoing` and free; the next one finishes."""
        process.handle(ask(world.kind.good, order_id))
        process.hooks.before["void"] = fail
        undo = ask(world.kind.undo, order_id)
        assert kinds_of(process.handle(undo)) == [Later]
        assert world.row(order_id) == ("undoing", 2)
        process.hooks.before.clear()
        assert kinds_of(process.handle(undo)) == [Done]
        assert world.entries(order_id) == [world.kind.does, world.kind.undoes]


def fail() -> None:
    raise UnknownOutcome("for the test")


class TestFence:
    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_an_undo_overtakes_a_call_in_flight(self, world: World, order_id: str, moment: str) -> None:
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

    def test_the_call_answers_while_the_undo_is_in_flight(self, world: World, order_id: str) -> None:
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

    def test_a_process_that_slept_through_its_lease_changes_nothing(self, world: World, order_id: str) -> None:
        """Its twin took the same message over and answered; the sleeper's answer is neither recorded nor sent."""
        sleeper, twin = world.process(), world.process()
        gate = Gate()
        sleeper.hooks.after["do"] = gate.pass_through
        message = ask(world.kind.good, order_id)
        call = in_background(lambda: sleeper.handle(message))
        gate.wait()
        assert kinds_of(twin.handle(message)) == [Later]
        world.expire_lease(order_id)
        assert kinds_of(twin.handle(message)) == [Done]
        gate.open()
        assert kinds_of(call.result(10)) == [Later]
        assert kinds_of(sleeper.handle(message)) == [Done]
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert world.entries(order_id) == [world.kind.does]


class TestUnknownOutcome:
    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_it_stays_an_intent_and_is_asked_again(
        self, world: World, process: Process, order_id: str, moment: str
    ) -> None:
        """Three attempts, then Later with the lease released; the same key later: one entry in the ledger."""
        getattr(process.hooks, moment)["do"] = fail
        message = ask(world.kind.good, order_id)
        assert kinds_of(process.handle(message)) == [Later]
        assert process.hooks.calls == {"do": 3}
        assert (world.row(order_id), world.outcomes(order_id)) == (("intended", 1), [])
        assert kinds_of(world.process().handle(message)) == [Done]
        assert world.row(order_id) == ("done", 2)
        assert world.entries(order_id) == [world.kind.does]

    def test_one_attempt_too_few_is_made_up_within_the_call(
        self, world: World, process: Process, order_id: str
    ) -> None:
        """The attempts of a call share its intent and its key."""
        times = iter([True, True, False])
        process.hooks.after["do"] = lambda: fail() if next(times) else None
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        assert world.row(order_id) == ("done", 1)
        assert world.entries(order_id) == [world.kind.does]
        assert process.application.counts == {"calls": 1, "attempts": 3}

    def test_no_attempt_outlasts_the_lease(self, world: World, order_id: str) -> None:
        """A call that waited too long for its turn is not made."""
        process = world.process(replace(LIMITS, attempts=1, timeout=0.2, lease=0.0, backoff=-0.5))
        assert process.application._limits.whole_lease < 0.4
        delay = Gate()
        pool = ThreadPoolExecutor(1)
        process.application._executor = pool
        pool.submit(delay.pass_through)
        call = in_background(lambda: process.handle(ask(world.kind.good, order_id)))
        expired = f"SELECT 1 FROM {world.kind.table} WHERE order_id = %s AND lease_until < now()"
        while not world.sql(expired, order_id):
            time.sleep(0.01)
        delay.open()
        assert kinds_of(call.result(10)) == [Later]
        assert (process.hooks.calls, world.entries(order_id)) == ({}, [])
        pool.shutdown()

    def test_nothing_is_begun_after_close(self, world: World, process: Process, order_id: str) -> None:
        """A stopping process leaves the intent to the next one."""
        process.application._stopping.set()
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Later]
        assert process.hooks.calls == {}


class TestCrash:
    @pytest.mark.parametrize("point", [*AROUND, "call.before", "call.after"])
    def test_a_command_survives_a_crash(self, world: World, order_id: str, point: str) -> None:
        """Wherever the process died: the message comes again, and there is one call's effect and one outcome."""
        message = ask(world.kind.good, order_id)
        self.die_at(point, world, message)
        assert kinds_of(world.process().handle(message)) == [Done]
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert world.entries(order_id) == [world.kind.does]

    @pytest.mark.parametrize("point", [*AROUND, "undo.before", "undo.after"])
    @pytest.mark.parametrize("state", ["absent", "done"])
    def test_an_undo_survives_a_crash(self, world: World, order_id: str, point: str, state: str) -> None:
        """Likewise; given back once."""
        if state == "done":
            bring_to("done", world, order_id)
        message = ask(world.kind.undo, order_id)
        self.die_at(point, world, message)
        assert kinds_of(world.process().handle(message)) == [Done]
        assert names(world.outcomes(order_id)) == [world.kind.undone]
        assert world.entries(order_id) == ([world.kind.does, world.kind.undoes] if state == "done" else [])

    def die_at(self, spec: str, world: World, message: object) -> None:
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


class TestKeyLife:
    def test_an_old_intent_without_effect_is_refused_and_barred(
        self, world: World, process: Process, order_id: str
    ) -> None:
        """It is looked up, never called again; whatever may still be on its way is barred by the void."""
        bring_to("intended", world, order_id)
        world.expire_lease(order_id)
        world.age(order_id, LIMITS.key_life)
        process.handle(ask(world.kind.good, order_id))
        [outcome] = world.outcomes(order_id)
        assert (type(outcome).__name__, outcome.reason) == (world.kind.refusal, "expired")
        assert process.hooks.calls == {"lookup": 1, "void": 1}
        assert world.entries(order_id) == []

    def test_an_old_intent_that_took_effect_is_found(self, world: World, process: Process, order_id: str) -> None:
        """The provider has forgotten the key, not what it did."""
        process.hooks.after["do"] = fail
        message = ask(world.kind.good, order_id)
        process.handle(message)
        world.age(order_id, LIMITS.key_life)
        later = world.process()
        assert kinds_of(later.handle(message)) == [Done]
        assert later.hooks.calls == {"lookup": 1}
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert world.entries(order_id) == [world.kind.does]

    def test_a_retry_that_would_outlast_the_key_looks_up(self, world: World, order_id: str) -> None:
        """The first attempt is always safe; the next ones only while the key surely lives."""
        process = world.process(replace(LIMITS, key_life=0.1))
        process.hooks.after["do"] = fail
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        assert process.hooks.calls == {"do": 1, "lookup": 1}
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert world.entries(order_id) == [world.kind.does]


class TestBatch:
    def test_do_and_undo_mix(self, world: World, process: Process) -> None:
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

    def test_the_slow_one_holds_nobody_up(self, world: World, order_id: str) -> None:
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

    def test_a_bug_in_a_client_is_counted_against_its_message_only(self, world: World, process: Process) -> None:
        """The fifth failure parks it; the others of its batch have their outcome."""
        bad, good = clock.new_id(), clock.new_id()
        original = process.provider.void
        process.provider.void = lambda key, order_id: 1 / 0 if order_id == bad else original(key, order_id)
        message = ask(world.kind.undo, bad)
        verdicts = process.handle(message, ask(world.kind.undo, good))
        assert kinds_of(verdicts) == [Later, Done]
        assert names(world.outcomes(good)) == [world.kind.undone]
        assert [kinds_of(process.handle(message)) for _ in range(4)] == [[Later]] * 3 + [[Park]]

    def test_the_pool_is_bounded(self, world: World) -> None:
        """With all places taken, the next call waits for one: it would only use up its lease in a queue."""
        pool = ThreadPoolExecutor(1)
        process = world.process(replace(LIMITS, concurrency=1), executor=pool)
        gate = Gate()
        process.hooks.before["do"] = gate.pass_through
        first = process.processor.process([ask(world.kind.good, clock.new_id())])[0]
        second = in_background(lambda: process.application.submit(lambda: "ran"))
        assert not second.done()
        gate.open()
        assert isinstance(first.result(10), Done)
        assert second.result(10).result(10) == "ran"
        pool.shutdown()
