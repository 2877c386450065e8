"""What waits for a provider: in the database, answered whoever asks last, whoever calls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from orderflow.contracts import EventBus, StockReserved, Workflow
from orderflow.envelope import compose
from orderflow.messaging.guard import Done
from tests.support.provider_kinds import PAYMENT, SHIPPING
from tests.support.provider_process import Process, ProviderWorld, ask, fail, kinds_of, names
from tests.support.provider_waiting import ONCE, ORDER, PAID, token, wait_for_provider
from tests.support.threads import Gate

pytestmark = pytest.mark.row(30)


class TestWaiting:
    def test_its_message_is_acknowledged_and_answered_later(
        self, world: ProviderWorld, process: Process, order_id: str
    ) -> None:
        """In its own name: with its token, and caused by it; by any process, and once."""
        process.hooks.before["do"] = fail
        message = token(ask(world.kind.good, order_id), "t-0")
        assert kinds_of(process.handle(message)) == [Done]
        assert world.waits(order_id) == (False, 0, 1, False)
        assert kinds_of(process.handle(message)) == [Done], "it is known by now"
        assert process.hooks.calls == {"do": 3}
        other = world.process()
        assert (world.call_again(other), world.call_again(other)) == (1, 0)
        [answer] = world.envelopes(order_id)
        assert (answer.name, answer.causationid, answer.tasktoken) == (world.kind.success, message.id, "t-0")
        assert (world.waits(order_id), world.row(order_id)) == (None, ("done", 2))
        assert world.entries(order_id) == [world.kind.does]

    def test_the_back_off_grows_and_nothing_is_called_before(self, world: ProviderWorld, order_id: str) -> None:
        """Each call without an answer counts; until it ends, no look finds it."""
        process = world.process(ONCE)
        process.hooks.before["do"] = fail
        process.handle(ask(world.kind.good, order_id))
        for tries in (2, 3):
            world.call_again(process)
            assert world.waits(order_id)[:3] == (False, 0, tries)
        world.sql(f"UPDATE {world.kind.table}_waiting SET next_at = now() + interval '1 minute'")
        assert process.retrying.step() == 0
        assert process.hooks.calls == {"do": 3}

    def test_a_resend_takes_the_place_and_calls_nobody_itself(
        self, world: ProviderWorld, process: Process, order_id: str
    ) -> None:
        """The newest token is the one that counts, also when an older message comes late; the next call is soon."""
        wait_for_provider(world, order_id)
        world.sql(f"UPDATE {world.kind.table}_waiting SET next_at = now() + interval '5 minutes'")
        first = ask(world.kind.good, order_id)
        third = token(first.again().again(), "t-2")
        assert kinds_of(process.handle(third)) == [Done]
        assert kinds_of(process.handle(token(first.again(), "t-1"))) == [Done]
        assert world.waits(order_id) == (False, 2, 1, True)
        assert process.hooks.calls == {}
        world.call_again(process)
        [answer] = world.envelopes(order_id)
        assert (answer.tasktoken, answer.resend, answer.causationid) == ("t-2", 2, first.id)

    def test_choreography_carries_the_order_on(self, world: ProviderWorld, process: Process, order_id: str) -> None:
        """What waits is the event as it came: the answer has the order that the next service needs."""
        event = compose(
            PAID if world.kind is SHIPPING else StockReserved(items=ORDER.items, order=ORDER),
            source="test", order_id=order_id, workflow=Workflow.CHOREOGRAPHY, event_bus=EventBus.EVENTBRIDGE,
        )  # fmt: skip
        process.hooks.before["do"] = fail
        assert kinds_of(process.handle(event)) == [Done]
        process.hooks.before.clear()
        world.call_again(process)
        [answer] = world.envelopes(order_id)
        assert (answer.name, answer.causationid) == (world.kind.success, event.id)
        assert (answer.workflow, answer.eventbus) == (event.workflow, event.eventbus)
        if world.kind is PAYMENT:
            assert answer.data["order"] == event.data["order"]

    def test_a_refusal_after_waiting(self, world: ProviderWorld, process: Process, order_id: str) -> None:
        """Whatever the provider says in the end is told."""
        process.hooks.before["do"] = fail
        process.handle(ask(world.kind.bad, order_id))
        process.hooks.before.clear()
        world.call_again(process)
        assert names(world.outcomes(order_id)) == [world.kind.refusal]


class TestCompensation:
    @pytest.mark.parametrize("reachable", [True, False], ids=["reachable", "unreachable"])
    def test_an_undo_ends_the_wait_of_the_step(
        self, world: ProviderWorld, process: Process, order_id: str, *, reachable: bool
    ) -> None:
        """Who asked for the step is told at once that it will not happen, whether the void has an answer or waits."""
        wait_for_provider(world, order_id)
        if not reachable:
            process.hooks.before["void"] = fail
        assert kinds_of(process.handle(ask(world.kind.undo, order_id))) == [Done]
        refused = world.kind.refusal + ":undone"
        if not reachable:
            assert names(world.outcomes(order_id)) == [refused]
            assert world.waits(order_id) == (True, 0, 1, False)
            process.hooks.before.clear()
            assert world.call_again(process) == 1
        assert sorted(names(world.outcomes(order_id))) == sorted([refused, world.kind.undone])
        assert (world.row(order_id)[0], world.waits(order_id)) == ("undone", None)
        assert world.entries(order_id) == []

    def test_an_undo_overtakes_the_call_that_was_made_again(self, world: ProviderWorld, order_id: str) -> None:
        """The late success of the waiting call no longer counts, and is given back."""
        pool = ThreadPoolExecutor(2)
        slow, fast = world.process(executor=pool), world.process()
        wait_for_provider(world, order_id)
        gate = Gate()
        slow.hooks.after["do"] = gate.pass_through
        world.make_due()
        assert slow.retrying.step() == 1
        gate.wait()
        assert kinds_of(fast.handle(ask(world.kind.undo, order_id))) == [Done]
        gate.open()
        pool.shutdown()
        assert sorted(names(world.outcomes(order_id))) == sorted([world.kind.refusal + ":undone", world.kind.undone])
        assert world.entries(order_id) == [world.kind.does, world.kind.undoes]
        assert (world.row(order_id)[0], world.waits(order_id)) == ("undone", None)

    def test_the_step_that_comes_late_finds_the_undo_waiting(
        self, world: ProviderWorld, process: Process, order_id: str
    ) -> None:
        """It is refused, and takes nobody's place."""
        wait_for_provider(world, order_id, undo=True)
        assert kinds_of(process.handle(ask(world.kind.good, order_id))) == [Done]
        assert names(world.outcomes(order_id)) == [world.kind.refusal + ":undone"]
        assert world.waits(order_id)[:2] == (True, 0)
        world.call_again(process)
        assert names(world.outcomes(order_id))[1:] == [world.kind.undone]

    def test_an_undo_for_another_reason_joins(self, world: ProviderWorld, process: Process, order_id: str) -> None:
        """A refusal elsewhere and a cancellation both ask for it, with messages of their own: one void."""
        wait_for_provider(world, order_id, undo=True)
        assert kinds_of(process.handle(ask(world.kind.undo, order_id))) == [Done]
        assert world.call_again(process) == 1
        assert names(world.outcomes(order_id)) == [world.kind.undone]
        assert process.hooks.calls == {"void": 1}
