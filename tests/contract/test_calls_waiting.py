"""What waits for a provider: in the database, answered whoever asks last, whoever calls, wherever a process dies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from orderflow import clock, failpoints
from orderflow.contracts import Address, EventBus, Item, OrderSnapshot, PaymentCharged, StockReserved, Workflow
from orderflow.envelope import Envelope, compose
from orderflow.messaging.guard import Done, Retry
from tests.support.provider_process import (
    LIMITS,
    PAYMENT,
    PRICE,
    SHIPPING,
    Crash,
    Gate,
    Process,
    ProviderWorld,
    ask,
    bring_to,
    fail,
    in_background,
    kinds_of,
    names,
)

pytestmark = pytest.mark.row(30)

ONCE = replace(LIMITS, attempts=1)
ORDER = OrderSnapshot(
    items=(Item(sku="BOOK-1", quantity=2),), total=PRICE, payment_method="pm_card_visa",
    address=Address(name="Ada", line1="1 Main St", city="Berlin", postal_code="10115", country="DE"),
)  # fmt: skip
PAID = PaymentCharged(payment_id="ch_1", amount=PRICE, order=ORDER)


def token(envelope: Envelope, value: str) -> Envelope:
    return envelope.model_copy(update={"tasktoken": value})


def wait_for_provider(world: ProviderWorld, *orders: str, undo: bool = False) -> None:
    """Asks for the step (or its undo) of each order while the provider gives no answer."""
    process = world.process(replace(ONCE, outage_after=1000))
    process.hooks.before |= {"do": fail, "void": fail}
    for order_id in orders:
        assert kinds_of(process.handle(ask(world.kind.undo if undo else world.kind.good, order_id))) == [Done]
        assert world.waits(order_id) is not None


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


class TestRaces:
    def test_two_processes_share_what_is_due(self, world: ProviderWorld) -> None:
        """Nothing is called twice: each takes what the other has not."""
        orders = [clock.new_id() for _ in range(6)]
        wait_for_provider(world, *orders)
        one, two = world.process(replace(LIMITS, concurrency=16)), world.process(replace(LIMITS, concurrency=16))
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

    def test_a_caller_that_slept_through_its_lease_changes_nothing(self, world: ProviderWorld, order_id: str) -> None:
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


class TestOutage:
    def test_an_unreachable_provider_is_probed_not_called(self, world: ProviderWorld) -> None:
        """After so many orders in a row: what is new waits at once, without a call; answers close the breaker."""
        process = world.process(replace(ONCE, outage_after=3, probe_every=5))
        process.hooks.before |= {"do": fail, "void": fail}
        now = [0.0]
        process.application.breaker.now = lambda: now[0]
        orders = [clock.new_id() for _ in range(8)]
        assert kinds_of(process.handle(*(ask(world.kind.good, o) for o in orders))) == [Done] * 8
        assert process.hooks.calls == {"do": 3}
        assert process.application.counts["withheld"] == 5
        assert [world.waits(o)[2:] for o in orders[3:]] == [(0, True)] * 5, "due as soon as the provider is back"
        world.make_due()
        assert process.retrying.step() == 0
        now[0] = 5
        assert process.retrying.step() == 1
        assert process.retrying.step() == 0
        assert process.hooks.calls == {"do": 4}
        process.hooks.before.clear()
        now[0] = 10
        assert process.retrying.step() == 1, "the probe"
        world.make_due()
        while process.retrying.step():
            pass
        assert all(names(world.outcomes(o)) == [world.kind.success] for o in orders)
        assert all(world.entries(o) == [world.kind.does] for o in orders)

    def test_one_order_is_no_outage(self, world: ProviderWorld, order_id: str) -> None:
        """However often its own call has no answer."""
        process = world.process(replace(LIMITS, outage_after=2))
        process.hooks.before["do"] = fail
        process.handle(ask(world.kind.good, order_id))
        world.call_again(process)
        assert process.hooks.calls == {"do": 6}
        assert not process.application.breaker.open

    def test_undos_hold_up_no_step(self, world: ProviderWorld) -> None:
        """An hour's compensations beside three orders whose deadline runs: a look takes some of each."""
        wait_for_provider(world, *(clock.new_id() for _ in range(12)), undo=True)
        orders = [clock.new_id() for _ in range(3)]
        wait_for_provider(world, *orders)
        process = world.process(replace(LIMITS, concurrency=16))
        assert world.call_again(process) == 4 + 3
        assert process.hooks.calls == {"do": 3, "void": 4}
        assert all(names(world.outcomes(o)) == [world.kind.success] for o in orders)
        while process.retrying.step():
            pass

    def test_slow_calls_are_bounded(self, world: ProviderWorld) -> None:
        """What hangs takes a quarter of the pool at most, and the rest of it stays for what is new."""
        pool = ThreadPoolExecutor(8)
        process = world.process(replace(LIMITS, concurrency=8), executor=pool)
        orders = [clock.new_id() for _ in range(5)]
        wait_for_provider(world, *orders)
        gate = Gate()
        process.hooks.before["do"] = gate.pass_through
        world.make_due()
        assert (process.retrying.step(), process.retrying.step()) == (2, 0)
        assert kinds_of(process.handle(ask(world.kind.undo))) == [Done]
        gate.open()
        pool.shutdown()
        assert process.retrying._in_flight.total() == 0

    def test_a_bug_in_a_client_is_tried_again(self, world: ProviderWorld, process: Process, order_id: str) -> None:
        """Its message is acknowledged: nothing is left to dead-letter, and the owner's deadline decides."""
        wait_for_provider(world, order_id)
        process.hooks.before["do"] = lambda: 1 / 0
        assert world.call_again(process) == 1
        assert world.waits(order_id)[:3] == (False, 0, 2)
        process.hooks.before.clear()
        assert world.call_again(process) == 1
        assert names(world.outcomes(order_id)) == [world.kind.success]

    def test_who_waits_in_a_newer_releases_words(self, world: ProviderWorld, order_id: str) -> None:
        """After a rollback: the answer is kept until it can be addressed, and holds up nobody."""
        process, other = world.process(replace(LIMITS, concurrency=16)), clock.new_id()
        wait_for_provider(world, order_id, other)
        table = f"{world.kind.table}_waiting"
        [(known,)] = world.sql(f"SELECT asking FROM {table} WHERE order_id = %s", order_id)
        world.sql(f"UPDATE {table} SET asking = %s WHERE order_id = %s", known.replace('.v1"', '.v9"'), order_id)
        assert world.call_again(process) == 2
        assert names(world.outcomes(other)) == [world.kind.success]
        assert world.row(order_id)[0] == "done"
        assert (world.outcomes(order_id), world.waits(order_id)[3]) == ([], False)
        world.sql(f"UPDATE {table} SET asking = %s WHERE order_id = %s", known, order_id)
        world.call_again(process)
        assert names(world.outcomes(order_id)) == [world.kind.success]

    def test_a_look_costs_what_is_due(self, world: ProviderWorld, process: Process) -> None:
        """Not what waits: of 20,000 places five are due, found by the index, with their intents by key."""
        table, fill = world.kind.table, "FROM generate_series(1, 20000) AS n"
        order = "md5(n::text)::uuid"
        world.sql(f"INSERT INTO {table} (order_id, state, fence) SELECT {order}, 'undoing', 1 {fill}")
        world.sql(
            f"INSERT INTO {table}_waiting (order_id, undo, asking, resend, tries, next_at)"
            f" SELECT {order}, true, 'x', 0, 1, now() + make_interval(secs => (n > 5)::int * (n + 2) - 1) {fill}"
        )
        world.sql(f"ANALYZE {table}, {table}_waiting")
        try:
            due = process.application.waits._due.decode()
            [(plan,)] = world.sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {due}", True, 100, 30.0, 30.0)
            said = str(plan)
            assert f"{table}_waiting_due" in said
            assert "Seq Scan" not in said
            [top] = plan
            assert (top["Plan"]["Actual Rows"], top["Plan"]["Shared Hit Blocks"] < 1000) == (5, True), said
        finally:
            world.sql(f"DELETE FROM {table} WHERE order_id IN (SELECT {order} {fill})")

    def test_what_is_measured(self, world: ProviderWorld, process: Process, order_id: str) -> None:
        """How many wait, since when, and whether the provider counts as unreachable."""
        wait_for_provider(world, order_id)
        values = {g.name: g.value for g in process.application.gauges(process.database)}
        assert values["provider_waiting"] >= 1
        assert 0 <= values["provider_waiting_oldest_seconds"] < 600
        assert values["provider_unreachable"] is False
        world.call_again(process)
