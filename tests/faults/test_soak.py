"""FAULTS row 24: a long run leaves no growing table and no growing process; a backlog is drained, and no healthy
order is compensated for being late."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection
from statistics import median

import psutil
import pytest

from orderflow.contracts import EventBus, Workflow
from orderflow.routing import SERVICES
from tests.support import parts
from tests.support.load import Load, sizes
from tests.support.processes import apply
from tests.support.system import System, until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults-system"), pytest.mark.row(24)]

MEGABYTE = 1024 * 1024

KINDS = ((Workflow.CHOREOGRAPHY, EventBus.SNS), (Workflow.ORCHESTRATION, EventBus.SNS))
PRUNED = {
    "order": ("inbox", "outbox", "order_log", "idempotency_keys"),
    "orchestrator": ("inbox", "outbox", "saga_log"),
    "inventory": ("inbox", "outbox"),
    "payment": ("inbox", "outbox"),
    "shipping": ("inbox", "outbox"),
}
"""Tables that would grow without end."""


def rows(system: System) -> dict[str, int]:
    """Rows by table."""
    return {
        f"{service}.{table}": system.sql(service, f"SELECT count(*) FROM {table}")[0][0]
        for service, tables in PRUNED.items()
        for table in tables
    }


def forgotten(system: System, keep: float) -> None:
    """Waits until everything with a retention of this many seconds is deleted."""
    until(lambda: not any(rows(system).values()), keep + 60, lambda: {t: n for t, n in rows(system).items() if n})


def memory(system: System) -> dict[str, float]:
    """Resident megabytes by service, all its processes together."""
    found = {}
    for service in SERVICES:
        main = psutil.Process(system.runtime.pid(service))
        found[service] = sum(p.memory_info().rss for p in (main, *main.children(recursive=True))) / MEGABYTE
    return found


def grown(samples: list[dict[str, float]]) -> dict[str, float]:
    """Megabytes by which each service was larger in the last third of a run than in the middle one."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    return {s: median(m[s] for m in last) - median(m[s] for m in middle) for s in SERVICES}


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("orders", "rate", "keep"), sizes((150, 15, 4), (10_000, 25, 60)))
@pytest.mark.extra
def test_a_soak_leaves_nothing_growing(
    system: System, seed: int, orders: int, rate: int, keep: int, measured: Callable[..., None]
) -> None:
    """Tables hold no more than their retention allows, and are empty when it has passed; the processes' memory has no
    trend (at full size: the quick run ends before they have allocated what they need)."""
    kept = str(keep)
    apply(system, {"KEEP_INBOX": kept, "KEEP_LOG": kept, "KEEP_IDEMPOTENCY_KEYS": kept})
    forgotten(system, keep)  # what earlier tests left
    before = traffic(system)
    samples: list[dict[str, float]] = []
    most: dict[str, int] = {}
    with Load(system, KINDS, rate=rate, total=orders, seed=seed) as load:
        while not load.done:
            samples.append(memory(system))
            most = {table: max(n, most.get(table, 0)) for table, n in rows(system).items()}
            load.until_taken(min(orders, len(load.acknowledged) + orders // 60), seconds=60)
        taken = load.finish()
    system.until_terminal(*taken)
    system.check(acknowledged=taken)
    inbox = sum(n for table, n in most.items() if table.endswith(".inbox"))
    handled = traffic(system, before)["handled"]
    growth = grown(samples)
    measured(
        orders=len(taken),
        handled=handled,
        most_rows_in_inboxes=inbox,
        most_rows=max(most.values()),
        grown_mb=max(growth.values()),
    )
    measured(memory_mb=sum(samples[-1].values()), memory_by_service=samples[-1], grown_by_service=growth, rows=most)
    forgotten(system, keep)
    assert inbox > 0
    if orders / rate > 5 * keep:
        assert inbox < handled / 3, "they were pruned while the load ran, a quarter of what is kept later at most"
        assert max(growth.values()) < 5, growth
    system.no_dead_letters()


def statuses_of(system: System, order_ids: Collection[str]) -> dict[str, int]:
    """The number of orders by status."""
    found = system.sql(
        "order", "SELECT status, count(*) FROM orders WHERE id = ANY(%s::uuid[]) GROUP BY 1", list(order_ids)
    )
    return {status: int(n) for status, n in found}


def traffic(system: System, before: Counter[str] | None = None) -> Counter[str]:
    """Messages that the services handled since `before`, those of them that were resent or answer a resent one, and
    those that were due to be resent and waited for the budget."""
    found: Counter[str] = Counter()
    for service in SERVICES:
        text = system.http.get(system.url(service, "/metrics")).text
        for what, count in re.findall(r"^orderflow_\w+_(handled|resent|withheld)_total\S* (\S+)$", text, re.M):
            found[what] += int(float(count))
    return found - (before or Counter())


SHORT = {"RESEND_AFTER": "2,3,5", "UNDO_AFTER": "6"}
"""A tenth of the usual times, so that a minute here is like ten minutes by default."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("orders", "overdue"), sizes((300, 1), (6000, 10)))
@pytest.mark.extra
def test_a_backlog_is_no_failure(
    system: System, seed: int, orders: int, overdue: float, measured: Callable[..., None]
) -> None:
    """The owners of all deadlines, order and orchestrator, receive nothing until long after these, and find a backlog.
    Everything that they wait for is in it, so no order is compensated."""
    before = traffic(system)
    apply(system, SHORT, {"order": {"ORDERFLOW_ROLE": "web"}})
    parts.stop(system.runtime, "orchestrator")
    with Load(system, KINDS, rate=200, total=orders, seed=seed, mix=({},)) as load:
        taken = load.finish()
    latest = overdue * float(SHORT["UNDO_AFTER"])
    until(lambda: system.sql("order", "SELECT extract(epoch FROM now() - max(created_at)) FROM orders")[0][0] > latest)
    waiting = system.waiting()
    began = time.monotonic()
    apply(system, SHORT)
    assert set(system.until_terminal(*taken, seconds=600)) <= {"CONFIRMED"}, statuses_of(system, taken)
    took = time.monotonic() - began
    system.check(acknowledged=taken)
    made = traffic(system, before)
    measured(orders=orders, waiting=sum(waiting.values()), worked_off_s=took, withheld=made["withheld"])
    measured(handled=made["handled"], sent_again_share=made["resent"] / made["handled"])
    assert sum(waiting.values()) > orders, "there was a backlog"
    assert orders < 6000 or took > 10 * float(SHORT["UNDO_AFTER"]), "it took as long as ten deadlines"
    system.no_dead_letters()


@pytest.mark.timeout(600)
@pytest.mark.extra
def test_a_backlog_elsewhere_is_not_fed(system: System, seed: int, measured: Callable[..., None]) -> None:
    """Inventory comes back to a backlog. The orders' owners don't see it; they resend, but no more than the retry
    budget allows, which is as small for 600 orders here as the usual one for 6,000: less than a tenth of the
    traffic."""
    apply(system, {"RESEND_AFTER": "5,10,20", "UNDO_AFTER": "120", "RETRY_BUDGET": "10"})
    before = traffic(system)
    parts.stop(system.runtime, "inventory")
    with Load(system, KINDS, rate=200, total=600, seed=seed, mix=({},)) as load:
        taken = load.finish()
    until(lambda: system.sql("order", "SELECT extract(epoch FROM now() - max(created_at)) FROM orders")[0][0] > 22)
    waiting = system.waiting()
    parts.start(system.runtime, "inventory")
    began = time.monotonic()
    assert set(system.until_terminal(*taken, seconds=300)) == {"CONFIRMED"}
    took = time.monotonic() - began
    system.check(acknowledged=taken)
    made = traffic(system, before)
    measured(waiting=waiting["inventory"], worked_off_s=took, withheld=made["withheld"], handled=made["handled"])
    measured(sent_again_share=made["resent"] / made["handled"])
    assert made["withheld"] > 600, "they were due"
    assert made["resent"] < made["handled"] / 10
    system.no_dead_letters()
