"""The three-phase provider call, the same for payment and shipping: states, unknown outcomes, the keys' life."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from orderflow import clock
from orderflow.messaging.guard import Done, Retry
from tests.support.provider_kinds import PAYMENT, POLICY
from tests.support.provider_process import Process, ProviderWorld, ask, bring_to, fail, kinds_of, names
from tests.support.threads import Gate, in_background


class TestDo:
    def test_a_new_order_is_called_once_and_answered(
        self, world: ProviderWorld, process: Process, order_id: str
    ) -> None:
        """absent → intended → done"""
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        assert world.row(order_id) == ("done", 1)
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert world.entries(order_id) == [world.kind.does]

    def test_a_refusal_is_the_providers_word(self, world: ProviderWorld, process: Process, order_id: str) -> None:
        """absent → intended → refused, with the provider's reason and nothing in its ledger"""
        process.handle(ask(world.kind.bad, order_id))
        [outcome] = world.outcomes(order_id)
        assert (type(outcome).__name__, world.entries(order_id)) == (world.kind.refusal, [])
        assert outcome.reason in ("card declined", "undeliverable address")

    @pytest.mark.parametrize("state", ["done", "refused", "undoing", "undone"])
    def test_a_settled_order_is_answered_from_its_row(
        self, world: ProviderWorld, process: Process, order_id: str, state: str
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

    def test_an_intent_of_another_process_waits(self, world: ProviderWorld, process: Process, order_id: str) -> None:
        """While the lease runs, nobody else calls."""
        bring_to("intended", world, order_id)
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Retry]
        assert (world.row(order_id), world.outcomes(order_id)) == (("intended", 1), [])
        assert not process.hooks.calls

    def test_an_intent_whose_process_died_is_taken_over(
        self, world: ProviderWorld, process: Process, order_id: str
    ) -> None:
        """After the lease the fence grows, and the call is made under the same key."""
        bring_to("intended", world, order_id)
        world.expire_lease(order_id)
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        assert world.row(order_id) == ("done", 2)
        assert names(world.outcomes(order_id)) == [world.kind.success]


class TestUndo:
    @pytest.mark.parametrize("state", ["absent", "intended", "done", "refused", "undoing", "undone"])
    @pytest.mark.row(5)
    def test_every_state_ends_compensated(
        self, world: ProviderWorld, process: Process, order_id: str, state: str
    ) -> None:
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

    def test_the_outcome_tells_what_was_compensated(
        self, world: ProviderWorld, process: Process, order_id: str
    ) -> None:
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

    def test_an_undo_of_another_process_waits(self, world: ProviderWorld, process: Process, order_id: str) -> None:
        """While the lease runs, nobody else voids."""
        bring_to("undoing", world, order_id)
        assert kinds_of(process.handle(ask(world.kind.undo, order_id))) == [Retry]
        assert (world.outcomes(order_id), process.hooks.calls) == ([], {})

    def test_an_undo_without_an_answer_is_tried_again(
        self, world: ProviderWorld, process: Process, order_id: str
    ) -> None:
        """The row stays `undoing` and free, and the undo waits in the database; the next call finishes."""
        process.handle(ask(world.kind.good, order_id))
        process.hooks.before["void"] = fail
        assert kinds_of(process.handle(ask(world.kind.undo, order_id))) == [Done]
        assert world.row(order_id) == ("undoing", 2)
        process.hooks.before.clear()
        assert world.call_again(process) == 1
        assert names(world.outcomes(order_id)) == [world.kind.success, world.kind.undone]
        assert world.entries(order_id) == [world.kind.does, world.kind.undoes]


@pytest.mark.row(14)
class TestUnknownOutcome:
    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_it_stays_an_intent_and_is_retried(
        self, world: ProviderWorld, process: Process, order_id: str, moment: str
    ) -> None:
        """Three attempts, then it waits with the lease released; the same key later: one entry in the ledger."""
        getattr(process.hooks, moment)["do"] = fail
        message = ask(world.kind.good, order_id)
        assert kinds_of(process.handle(message)) == [Done]
        assert process.hooks.calls == {"do": 3}
        assert (world.row(order_id), world.outcomes(order_id)) == (("intended", 1), [])
        assert world.call_again(world.process()) == 1
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert world.row(order_id) == ("done", 2)
        assert world.entries(order_id) == [world.kind.does]

    def test_one_attempt_too_few_is_made_up_within_the_call(
        self, world: ProviderWorld, process: Process, order_id: str
    ) -> None:
        """The attempts of a call share its intent and its key."""
        times = iter([True, True, False])
        process.hooks.after["do"] = lambda: fail() if next(times) else None
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        assert world.row(order_id) == ("done", 1)
        assert world.entries(order_id) == [world.kind.does]
        assert process.application.counts == {"calls": 1, "attempts": 3}

    def test_no_attempt_outlasts_the_lease(self, world: ProviderWorld, order_id: str) -> None:
        """A call that waited too long for its turn is not made."""
        process = world.process(replace(POLICY, attempts=1, timeout=0.2, lease=0.0, backoff=-0.5))
        assert process.application.policy.whole_lease < 0.4
        delay = Gate()
        pool = ThreadPoolExecutor(1)
        process.application._executor = pool
        pool.submit(delay.pass_through)
        call = in_background(lambda: process.handle(ask(world.kind.good, order_id)))
        expired = f"SELECT 1 FROM {world.kind.table} WHERE order_id = %s AND lease_until < now()"
        while not world.sql(expired, order_id):
            time.sleep(0.01)
        delay.open()
        assert kinds_of(call.result(10)) == [Done]
        assert (process.hooks.calls, world.entries(order_id)) == ({}, [])
        assert world.waits(order_id) == (False, 0, 0, True)
        pool.shutdown()

    def test_nothing_is_begun_after_close(self, world: ProviderWorld, process: Process, order_id: str) -> None:
        """A stopping process leaves the intent to the next one, at once."""
        process.application.stopping.set()
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        assert process.hooks.calls == {}
        assert world.waits(order_id) == (False, 0, 0, True)


@pytest.mark.row(10)
class TestKeyLife:
    def test_an_old_intent_without_effect_is_refused_and_barred(
        self, world: ProviderWorld, process: Process, order_id: str
    ) -> None:
        """It is looked up, never called again; whatever may still be on its way is barred by the void."""
        bring_to("intended", world, order_id)
        world.expire_lease(order_id)
        world.age(order_id, POLICY.key_life)
        process.handle(ask(world.kind.good, order_id))
        [outcome] = world.outcomes(order_id)
        assert (type(outcome).__name__, outcome.reason) == (world.kind.refusal, "expired")
        assert process.hooks.calls == {"lookup": 1, "void": 1}
        assert world.entries(order_id) == []

    def test_an_old_intent_that_took_effect_is_found(
        self, world: ProviderWorld, process: Process, order_id: str
    ) -> None:
        """The provider has forgotten the key, not what it did."""
        process.hooks.after["do"] = fail
        process.handle(ask(world.kind.good, order_id))
        world.age(order_id, POLICY.key_life)
        later = world.process()
        assert world.call_again(later) == 1
        assert later.hooks.calls == {"lookup": 1}
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert world.entries(order_id) == [world.kind.does]

    def test_an_order_that_both_sides_have_forgotten_is_looked_up(self, world: ProviderWorld, process: Process) -> None:
        """Done long ago; then the row went with a database restored from a backup, and the key with its life."""
        seconds = POLICY.key_life + 60
        order_id = f"{int((time.time() - seconds) * 1000):012x}"
        order_id = f"{order_id[:8]}-{order_id[8:]}{clock.new_id()[13:]}"
        process.handle(ask(world.kind.good, order_id))
        world.sql(f"DELETE FROM {world.kind.table} WHERE order_id = %s", order_id)
        key = f"{order_id}:{world.kind.does}"
        world.ledger._rows(
            "UPDATE idempotency_keys SET at = at - make_interval(secs => %s) WHERE key = %s", [seconds, key]
        )
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        assert names(world.outcomes(order_id)) == [world.kind.success] * 2
        assert world.entries(order_id) == [world.kind.does]

    def test_a_retry_that_would_outlast_the_key_looks_up(self, world: ProviderWorld) -> None:
        """The first attempt is always safe; the next ones only while the key surely lives."""
        process = world.process(replace(POLICY, timeout=5, key_life=5))
        order_id = clock.new_id()
        process.hooks.after["do"] = fail
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        assert process.hooks.calls == {"do": 1, "lookup": 1}
        assert names(world.outcomes(order_id)) == [world.kind.success]
        assert world.entries(order_id) == [world.kind.does]
