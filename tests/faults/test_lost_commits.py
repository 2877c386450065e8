"""FAULTS row 7: a transaction is committed, but the answer to the COMMIT is lost with its connection. A proxy between
each service and its database drops exactly that answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from orderflow import clock
from orderflow.contracts import EventBus, Workflow
from orderflow.errors import Transient
from orderflow.routing import SERVICES
from tests.support.bodies import order_body
from tests.support.load import Load, each_kind, sizes
from tests.support.oracle import check
from tests.support.proxy import LostCommits
from tests.support.system import KINDS, System, overridden, until
from tests.support.world import BUILD, World

pytestmark = [pytest.mark.slow, pytest.mark.row(7)]

Kind = tuple[Workflow, EventBus]
CASES = (({}, "CONFIRMED"), ({"postal_code": "00000"}, "CANCELLED"))


@pytest.fixture(scope="module")
def lost() -> dict[str, LostCommits]:
    return {name: LostCommits() for name in BUILD}


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str], lost: dict[str, LostCommits]) -> Iterator[World]:
    """Each service reaches its database through a proxy."""
    with ExitStack() as stack:
        urls = {name: stack.enter_context(lost[name].between(new_database(name))) for name in BUILD}
        made = World(urls | {"providers": new_database(None)})
        made.looks.every = True  # its COMMIT may be lost, too
        yield made
        made.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", each_kind())
def test_at_every_commit(world: World, lost: dict[str, LostCommits], kind: Kind, measured: Callable[..., None]) -> None:
    """The first, second … COMMIT of each service, for an order that succeeds and one that is compensated: the next
    delivery finds what was done, and does not repeat it."""
    swallowed = 0
    for changes, expected in CASES:
        for service in BUILD:
            for nth in range(1, 30):
                order_id = world.place(**changes, workflow=kind[0], event_bus=kind[1])
                lost[service].arm(nth)
                with suppress(Transient):  # any work until the end of the order may meet it
                    world.settle()
                    world.recover()
                lost[service].disarm()
                world.recover()
                assert world.status(order_id) == expected, (changes, service, nth)
                if not lost[service].fired:
                    break
                swallowed += 1
    measured(swallowed=swallowed)
    assert swallowed >= 20
    check(world.urls)
    assert world.parked() == []


def test_of_an_order_that_was_placed(world: World, lost: dict[str, LostCommits]) -> None:
    """The caller is told to try again, and gets the same order under the same key."""
    key, http = {"Idempotency-Key": clock.new_id()}, world.http("order")
    before = world.execute("order", "SELECT count(*) FROM orders")
    lost["order"].arm(1)
    refused = http.post("/orders", json=order_body(), headers=key)
    assert refused.status_code == 503
    assert lost["order"].fired == 1
    taken = http.post("/orders", json=order_body(), headers=key)
    assert (taken.status_code, taken.headers["Idempotent-Replayed"]) == (202, "true")
    assert world.execute("order", "SELECT count(*) FROM orders") == [(before[0][0] + 1,)]
    world.recover()
    assert world.status(taken.json["id"]) == "CONFIRMED"
    check(world.urls)


@pytest.fixture
def through_proxies(system: System) -> Iterator[dict[str, LostCommits]]:
    """The running system, its services behind proxies."""
    found = {service: LostCommits() for service in SERVICES}
    with ExitStack() as stack:
        urls = {s: stack.enter_context(lost.between(system.databases[s])) for s, lost in found.items()}
        stack.enter_context(overridden(system, {service: {"DATABASE_URL": url} for service, url in urls.items()}))
        yield found


@pytest.mark.timeout(900)
@pytest.mark.xdist_group("faults-system")
@pytest.mark.parametrize("cuts", sizes(20, 100))
@pytest.mark.extra
def test_under_load(
    system: System, through_proxies: dict[str, LostCommits], seed: int, cuts: int, measured: Callable[..., None]
) -> None:
    """Real processes lose every tenth COMMIT of each service: each message has one effect, and none needs a restart."""
    before = {service: system.runtime.pid(service) for service in SERVICES}
    each = cuts // len(SERVICES)
    for lost in through_proxies.values():
        lost.arm(every=10, most=each)
    with Load(system, KINDS, rate=8, total=max(80, 4 * cuts), seed=seed) as load:
        taken = load.finish()
    system.until_terminal(*taken)
    fired = {service: lost.fired for service, lost in through_proxies.items()}
    measured(swallowed=sum(fired.values()), answers=dict(load.answers))
    assert set(fired.values()) == {each}, fired
    system.check(acknowledged=taken)
    system.no_dead_letters()
    assert {service: system.runtime.pid(service) for service in SERVICES} == before
    until(system.all_ready)
