"""FAULTS row 10: dead letters are redriven long after: the inbox has been pruned, the provider has forgotten its keys.

A message that had its effect has no second one; a message that had none is handled according to its order's state. In
one process, and by the same rules on a real system.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pytest

from orderflow.broker.aws.step_functions import spent_tokens
from orderflow.broker.memory import MemoryQueue
from orderflow.contracts import EventBus, Workflow
from orderflow.envelope import decode
from orderflow.routing import SERVICES
from tests.support.aws_like.rules import Rules
from tests.support.load import each_kind, sizes
from tests.support.oracle import check
from tests.support.system import KINDS, kind_id
from tests.support.world import BUILD, World, failing_on_purpose, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.row(10)]

Kind = tuple[Workflow, EventBus]

MIX: Final[list[dict[str, Any]]] = [{}, {}, {}, {"payment_method": "pm_card_declined"}, {"postal_code": "00000"}]
WHO: Final = {"by": "ada", "why": "row 10"}

FAIL: Final = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a bug in the handler'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON payments FOR EACH ROW WHEN (NEW.state = 'done') EXECUTE FUNCTION refuse()
"""
"""The card is charged, and the answer can't be recorded."""
MEND: Final = "DROP TRIGGER refuse ON payments; DROP FUNCTION refuse"

LATER: Final = {
    "providers": "UPDATE idempotency_keys SET at = at - interval '20 days'",
    "payment": "UPDATE payments SET created_at = created_at - interval '20 days', lease_until = NULL",
    "shipping": "UPDATE shipments SET created_at = created_at - interval '20 days', lease_until = NULL",
}
"""Longer than a provider keeps a key (PROVIDER_KEY_LIFE), and longer than the inbox is kept (KEEP_INBOX)."""
PRUNED: Final = "TRUNCATE inbox"
"""The rows that are left when the partitions of these days have been dropped."""


@pytest.fixture(scope="module")
def _world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database, Rules(1)) as made:
        yield made


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    with failing_on_purpose(_world) as made:
        yield made


def bury(queue: MemoryQueue, body: str) -> None:
    """Dead-letters a body."""
    queue.put(body)
    queue.waiting.rotate(1)
    [delivery] = queue.receive(1, 0)
    queue.park(delivery, "a reason")


@contextmanager
def seen(met: Callable[[MemoryQueue, str], bool]) -> Iterator[None]:
    """`met` sees every message that arrives in a queue; those for which it returns True are dead-lettered instead."""
    put = MemoryQueue.put

    def watched(queue: MemoryQueue, body: str) -> None:
        put(queue, body)
        if met(queue, body):
            queue.waiting.rotate(1)
            [delivery] = queue.receive(1, 0)
            queue.park(delivery, "a reason")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryQueue, "put", watched)
        yield


def handled(world: World, kind: Kind, number: int, chance: random.Random) -> list[str]:
    """Orders that have ended, any of whose messages are now dead letters; their ids."""
    met: list[tuple[MemoryQueue, str]] = []
    with seen(lambda queue, body: met.append((queue, body)) or False):  # type: ignore[func-returns-value]
        orders = [place(world, kind, i) for i in range(number)]
        world.settle()
    for queue, body in chance.sample(met, number):
        bury(queue, body)
    return orders


def place(world: World, kind: Kind, number: int) -> str:
    return world.place(**MIX[number % len(MIX)], workflow=kind[0], event_bus=kind[1])


def lost(world: World, kind: Kind, number: int, chance: random.Random) -> list[str]:
    """Orders that each had one message dead-lettered before it was handled; their ids."""
    came: Counter[str] = Counter()
    with seen(lambda queue, body: bool(came.update([decode(body).subject]))):
        clean = place(world, kind, 0)
        world.settle()
    at = {}
    parked: Counter[str] = Counter()

    def met(queue: MemoryQueue, body: str) -> bool:
        order_id = decode(body).subject
        at.setdefault(order_id, chance.randint(1, 3))
        parked[order_id] += 1
        return parked[order_id] == at[order_id]

    assert came[clean] >= 3, "each order has at least this many messages"
    with seen(met):
        orders = [place(world, kind, 0) for _ in range(number)]
        world.settle()
    return orders


def charged(world: World, kind: Kind, number: int) -> list[str]:
    """Orders that were charged by a handler that failed five times to record it; their ids."""
    world.execute("payment", FAIL)
    try:
        orders = [world.place(workflow=kind[0], event_bus=kind[1]) for _ in range(number)]
        for _ in range(12):
            world.settle()
            for queue in world.broker.queues.values():
                queue.redeliver()
            world.expire_leases()
    finally:
        world.execute("payment", MEND)
    return orders


def time_passes(world: World) -> None:
    """Lets weeks pass: everything with a retention period has been deleted."""
    for name in BUILD:
        world.execute(name, PRUNED)
        world.services[name].prune()
        assert not world.execute(name, "SELECT 1 FROM inbox LIMIT 1")
    for database, statement in LATER.items():
        world.execute(database, statement)


def redrive_all(world: World) -> int:
    """Redrives until none is left; returns how many there were."""
    count = 0
    for service in SERVICES:
        done = world.http(service).post("/dlq/redrive", json=WHO | {"all": True}).json
        assert done["left"] == 0
        count += len(done["settled"])
    return count


def ledger(world: World, orders: list[str]) -> list[Any]:
    statement = "SELECT order_id, kind, amount FROM ledger WHERE order_id = ANY(%s::uuid[]) ORDER BY 1, 2"
    return world.execute("providers", statement, [orders])


MEANWHILE: Final = {"nothing": (), "sent again": (25,) * 8, "undone": (100, *(25,) * 8), "executions lost": ()}
"""What the orders' owners have done by then → the seconds that passed for them before each of their checks."""
CASES: Final = [
    pytest.param(kind, meanwhile, id=f"{kind_id(kind)}-{meanwhile}")
    for kind in KINDS
    for meanwhile in MEANWHILE
    if meanwhile != "executions lost" or kind[0] is Workflow.STEP_FUNCTIONS
]


def owners_look(world: World, seconds: Sequence[float]) -> None:
    for more in seconds:
        world.pass_time(more)
        for queue in world.broker.queues.values():
            queue.redeliver()
        world.relay()
        world.settle()


@pytest.mark.parametrize("number", sizes(8, 100))
@pytest.mark.parametrize(("kind", "meanwhile"), CASES)
def test_redriven_long_after(
    world: World, seed: int, kind: Kind, number: int, meanwhile: str, measured: Callable[..., None]
) -> None:
    """As many messages that had been handled as had not, half of these after the charge. A state machine that has
    resent has a new token by then: it ignores the answer to the old one, and the next command is answered with what was
    done."""
    chance = random.Random(seed)
    done = handled(world, kind, number, chance)
    ended = {order_id: world.status(order_id) for order_id in done}
    before = ledger(world, done)
    assert set(ended.values()) == {"CONFIRMED", "CANCELLED"}
    stuck = lost(world, kind, number // 2, chance) + (unsure := charged(world, kind, number - number // 2))
    letters = len(world.parked())
    assert letters >= 2 * number, "the fault did not fire"
    assert len([row for row in ledger(world, unsure) if row[1] == "charge"]) == len(unsure), "charged, each once"
    states = world.execute("payment", "SELECT state FROM payments WHERE order_id = ANY(%s::uuid[])", [unsure])
    assert {state for (state,) in states} == {"intended"}, "and not recorded"
    time_passes(world)
    owners_look(world, MEANWHILE[meanwhile])
    if meanwhile == "executions lost":
        assert world.broker.machine.lose() >= len(unsure)
    now = Counter(world.status(order_id) for order_id in stuck)
    expected = {"sent again": {"CONFIRMED"}, "undone": {"CANCELLED"}}.get(meanwhile, {"PLACED", "STOCK_RESERVED"})
    assert now.keys() & expected, now
    spent = sum(spent_tokens.values())
    assert redrive_all(world) >= letters
    world.settle()
    if kind[0] is Workflow.STEP_FUNCTIONS:
        assert sum(spent_tokens.values()) > spent
    world.recover()
    statuses = Counter(world.status(order_id) for order_id in stuck)
    measured(letters=letters, then=dict(now), in_the_end=dict(statuses))
    assert {order_id: world.status(order_id) for order_id in done} == ended
    assert ledger(world, done) == before, "no second effect"
    assert statuses.keys() <= {"CONFIRMED", "CANCELLED"}
    check(world.urls)
    assert world.parked() == []


@pytest.mark.parametrize("kind", each_kind())
def test_some_of_them(world: World, kind: Kind) -> None:
    """A redrive by ids, by order, then of the rest: the named ones continue, are still charged once, and the others
    wait."""
    orders = charged(world, kind, 6)
    payment = world.broker.queues["payment"]
    assert {decode(delivery.body).subject for delivery, _ in payment.parked} == set(orders)

    def redrive(**chosen: object) -> set[str]:
        answer = world.http("payment").post("/dlq/redrive", json=WHO | chosen)
        assert answer.status_code == 200, answer.text
        world.settle()
        return {letter["order_id"] for letter in answer.json["settled"]}

    ids = [decode(d.body).id for d, _ in payment.parked if decode(d.body).subject in orders[:2]]
    assert redrive(ids=ids) == set(orders[:2])
    assert redrive(order_id=orders[2]) == {orders[2]}
    assert {decode(delivery.body).subject for delivery, _ in payment.parked} == set(orders[3:])
    assert {world.status(order_id) for order_id in orders[:3]} == {"CONFIRMED"}
    assert "CONFIRMED" not in {world.status(order_id) for order_id in orders[3:]}
    assert redrive(all=True) == set(orders[3:])
    assert {world.status(order_id) for order_id in orders} == {"CONFIRMED"}
    assert [row[1] for row in ledger(world, orders)] == ["charge", "shipment"] * len(orders)
    check(world.urls, acknowledged=orders)
    assert world.parked() == []
