"""A provider that is unavailable: who tries, how often, and what waits meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from orderflow import clock
from orderflow.messaging.guard import Done
from tests.support.provider_kinds import POLICY
from tests.support.provider_process import Process, ProviderWorld, ask, fail, kinds_of, names
from tests.support.provider_waiting import ONCE, wait_for_provider
from tests.support.threads import Gate

pytestmark = pytest.mark.row(30)


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
        process = world.process(replace(POLICY, outage_after=2))
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
        process = world.process(replace(POLICY, concurrency=16))
        assert world.call_again(process) == 4 + 3
        assert process.hooks.calls == {"do": 3, "void": 4}
        assert all(names(world.outcomes(o)) == [world.kind.success] for o in orders)
        while process.retrying.step():
            pass

    def test_slow_calls_are_bounded(self, world: ProviderWorld) -> None:
        """What hangs takes a quarter of the pool at most, and the rest of it stays for what is new."""
        pool = ThreadPoolExecutor(8)
        process = world.process(replace(POLICY, concurrency=8), executor=pool)
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
        process, other = world.process(replace(POLICY, concurrency=16)), clock.new_id()
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
