"""FAULTS rows 1, 3 and 22: processes that are killed, frozen, and restarted under load. On real processes."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from orderflow.contracts import EventBus, Workflow
from orderflow.providers.calls import CallPolicy
from orderflow.routing import SERVICES, TABLE
from tests.support import parts
from tests.support.aims import within
from tests.support.load import Load, bearable, quick, sizes
from tests.support.processes import another, replaced
from tests.support.system import FAULTS, KINDS, System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("faults-system")]

Kinds = tuple[tuple[Workflow, EventBus], ...]

PROCESSES = (*SERVICES, "postgres")

DRAINED = 120.0
"""Seconds from the last fault until every order is terminal; after kills, until nothing waits."""


def kill(system: System, name: str, chance: random.Random) -> bool:
    """kill -9 of a part: the whole part, as a container dies, or only a worker, as the OOM killer ends one."""
    pid = system.runtime.pid(name)
    if not pid:
        return False
    try:
        workers = psutil.Process(pid).children(recursive=True)
        if workers and chance.random() < 0.5:
            chance.choice(workers).kill()
        else:
            parts.kill(system.runtime, name)
    except (psutil.NoSuchProcess, LookupError):
        return False
    return True


@pytest.mark.parametrize(
    ("orders", "kills", "each"),
    sizes((100, 9, 1), (1000, 100, 5)),
)
@pytest.mark.row(1)
def test_random_processes_are_killed(
    system: System, seed: int, kinds: Kinds, orders: int, kills: int, each: int, measured: Callable[..., None]
) -> None:
    """Row 1: kill -9 of a random process every 0.5 to 2 s, the database's among them, under a load of every workflow,
    bus and outcome: no acknowledged order is lost, and nothing is done twice."""
    chance = random.Random(seed)
    killed: Counter[str] = Counter()
    deck: list[str] = []
    orders = round(orders * bearable(8, kinds) / 8)  # in the same time

    def since() -> float:
        return time.monotonic() - last

    with Load(system, kinds, rate=8, total=orders, seed=seed) as load:
        # No longer than that: if a start takes longer than the time between two kills, nothing would ever be ready.
        while sum(killed.values()) < kills or min(killed[p] for p in PROCESSES) < each:
            time.sleep(chance.uniform(0.5, 2))
            if not deck:
                deck = chance.sample(PROCESSES, len(PROCESSES))
            name = deck.pop()
            killed[name] += kill(system, name, chance)
        last, during = time.monotonic(), len(load.acknowledged)
        taken = load.finish()
    print(f"killed: {dict(killed)}; answers: {dict(load.answers)}")
    assert during, "orders were accepted meanwhile"
    measured(orders=len(taken), during_kills=during, a_second=load.rate, kills=sum(killed.values()))
    measured(fewest_a_process=min(killed[p] for p in PROCESSES))
    system.until_terminal(*taken, seconds=within(DRAINED) - since())
    measured(terminal_s=since())
    system.check(within(DRAINED) - since(), acknowledged=taken)
    drained = since()
    measured(drained_s=drained)
    assert drained <= within(DRAINED)
    system.no_dead_letters()


@pytest.mark.row(22)
def test_rolling_restart(system: System, seed: int, kinds: Kinds, measured: Callable[..., None]) -> None:
    """Row 22: SIGTERM to one service after the other under load: each exits by itself within ten seconds; no effect is
    repeated, and no message is lost, dead-lettered or left to its lease."""
    took: dict[str, float] = {}
    with Load(system, kinds, rate=8, total=10_000, seed=seed) as load:
        for service in SERVICES:
            time.sleep(1)
            pid = system.runtime.pid(service)
            main = psutil.Process(pid)
            began = time.monotonic()
            main.send_signal(signal.SIGTERM)
            main.wait(timeout=within(30))
            took[service] = time.monotonic() - began
            replaced(system, service, pid)
            system.until_ready()
        last = time.monotonic()
        assert not load.done, "all were stopped under load"
        taken = load.end()
    print(f"seconds to exit: {took}; answers: {dict(load.answers)}")
    measured(orders=len(taken), exit_s=max(took.values()))
    assert max(took.values()) <= within(10), took
    system.until_terminal(*taken, seconds=within(DRAINED))
    measured(terminal_s=time.monotonic() - last)
    system.check(acknowledged=taken)
    system.no_dead_letters()


FROZEN = {
    "payment": ("payments", "payment", ["charge", "refund"]),
    "shipping": ("shipments", "carrier", ["shipment", "cancellation"]),
}
DONE_UNDER = "SELECT (SELECT id FROM ledger WHERE order_id = %s AND kind = %s)"
ASKED_FOR = "SELECT coalesce(sum(attempts), 0) FROM idempotency_keys WHERE key = ANY(%s)"
CALL_LEASE = CallPolicy(timeout=float(FAULTS["PROVIDER_TIMEOUT"]), lease=float(FAULTS["LEASE"])).whole_lease


@pytest.mark.parametrize(
    ("workflow", "service"),
    quick(
        [(workflow, service) for workflow in TABLE for service in FROZEN],
        (Workflow.CHOREOGRAPHY, "payment"),
    ),
)
@pytest.mark.row(3)
def test_frozen_within_a_provider_call(
    system: System, service: str, workflow: Workflow, measured: Callable[..., None]
) -> None:
    """Row 3: a process is stopped (SIGSTOP) inside provider calls for three leases. Another one takes its orders over,
    and half of them are compensated meanwhile. After it resumes, it makes its calls too late and changes nothing: no
    stale write, no charge after the refund."""
    table, provider, kinds = FROZEN[service]
    faults = system.url(service, "/simulator/faults")
    assert system.http.put(faults, json={"latency": 60}).status_code == 200  # each call hangs until its timeout
    held = f"""SELECT order_id::text FROM {table}
        WHERE state = 'intended' AND lease_until > now() + interval '2 s' AND order_id = ANY(%s::uuid[])"""
    orders = [system.place((workflow, EventBus.SNS)) for _ in range(4)]

    def known() -> dict[str, tuple[Any, ...]]:
        rows = system.sql(service, f"SELECT order_id::text, state, fence, reference, reason FROM {table}")
        return {i: (system.order(i)["status"], system.ledger(i), *row) for i, *row in rows if i in orders}

    def calls() -> int:
        return int(system.sql("providers", ASKED_FOR, [f"{i}:{kinds[0]}" for i in frozen])[0][0])

    until(lambda: len(system.sql(service, held, orders)) >= 2)
    parts.kill(system.runtime, service, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        frozen = [i for (i,) in system.sql(service, held, orders)]
        assert len(frozen) >= 2, "it was stopped inside of calls"
        system.sql("providers", "UPDATE faults SET latency = 0 WHERE provider = %s", provider)
        undone = frozen[::2]
        assert {system.cancel(i) for i in undone} == {202}
        with another(system, service):
            system.until_terminal(*orders)
            fences = dict(system.sql(service, f"SELECT order_id::text, fence FROM {table}"))
            assert all(fences[i] > 1 for i in frozen), "another process took them over"
            before, asked = known(), calls()
            time.sleep(max(0.0, stopped + 3 * CALL_LEASE - time.monotonic()))
            frozen_s = time.monotonic() - stopped
            parts.kill(system.runtime, service, signal.SIGCONT)
            until(lambda: calls() > asked, what=lambda: "the one that woke up made none of its calls")
            system.until_ready()
            time.sleep(3)  # for the remaining work of the process that woke up
            system.check(acknowledged=orders)
    finally:
        parts.kill(system.runtime, service, signal.SIGCONT)
        system.sql("providers", "UPDATE faults SET latency = 0 WHERE provider = %s", provider)
    measured(calls_frozen=len(frozen), undone=len(undone), frozen_s=round(frozen_s, 1), late_calls=calls() - asked)
    after = known()
    assert after == before, "the one that woke up changed something"
    for order_id, (status, ledger, state, _, reference, _) in after.items():
        taken_back = order_id in undone
        assert (status, state) == (("CANCELLED", "undone") if taken_back else ("CONFIRMED", "done"))
        assert [kind for kind in ledger if kind in kinds] in ([[], kinds] if taken_back else [kinds[:1]])
        assert system.sql("providers", DONE_UNDER, order_id, kinds[0]) == [(reference,)], "the row says what was done"


def caught(system: System, service: str, worker: psutil.Process) -> bool:
    """Stops a process if it is in the middle of a transaction; otherwise lets it continue."""
    ours = [
        c.laddr.port for c in worker.net_connections("tcp") if c.raddr and c.raddr.port == system.ports["POSTGRES_PORT"]
    ]
    worker.send_signal(signal.SIGSTOP)
    # Within a pipeline the server reports the session as active although it waits for the client.
    open_ones = """SELECT 1 FROM pg_stat_activity
        WHERE client_port = ANY(%s) AND xact_start IS NOT NULL AND wait_event = 'ClientRead'"""
    if system.sql(service, open_ones, ours):
        return True
    worker.send_signal(signal.SIGCONT)
    return False


@pytest.mark.parametrize("service", quick(SERVICES, "order"))
@pytest.mark.row(3)
def test_frozen_with_messages_in_flight(system: System, seed: int, service: str, measured: Callable[..., None]) -> None:
    """Row 3: any service is stopped for three leases of its outbox under load, in the middle of a transaction, while
    another process of it continues."""
    with another(system, service), Load(system, KINDS, rate=8, total=10_000, seed=seed) as load:
        load.until_taken(8)
        [worker] = psutil.Process(system.runtime.pid(service)).children()
        until(lambda: caught(system, service, worker))
        stopped = time.monotonic()
        before = len(load.acknowledged)
        time.sleep(3 * float(FAULTS["LEASE"]))
        assert worker.status() == psutil.STATUS_STOPPED
        assert service == "order" or len(load.acknowledged) > before, "the others continued"
        worker.send_signal(signal.SIGCONT)
        resumed = time.monotonic()
        taken = load.end()
        system.until_terminal(*taken, seconds=within(DRAINED))
        measured(orders=len(taken), frozen_s=resumed - stopped, terminal_s=time.monotonic() - resumed)
        system.check(acknowledged=taken)
    system.no_dead_letters()
