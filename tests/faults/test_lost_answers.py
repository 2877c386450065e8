"""FAULTS row 31: the answer to a POST is lost after its commit: to the service (the connection is cut when COMMIT's
answer comes back), with the process (it dies after the commit), or to the caller. There is one effect, and a repeat of
the request returns the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final

import pytest

from orderflow import clock, failpoints
from orderflow.contracts import Workflow
from orderflow.web.operations import declared
from tests.support.bodies import order_body
from tests.support.proxy import LostCommits
from tests.support.world import BUILD, Crash, World, failing_on_purpose

pytestmark = [pytest.mark.row(31)]

WHO: Final = {"by": "ada", "why": "the carrier is back"}
LETTERS: Final = 25
"""More than two batches."""


@dataclass(frozen=True)
class Case:
    """A request, and the effect that it must have once: `effect` counts it since the request was prepared."""

    path: str
    body: dict[str, Any]
    effect: Callable[[], int]
    wanted: int


def place(world: World, service: str) -> Case:
    before = count(world, "SELECT count(*) FROM orders")
    return Case("/orders", order_body(), lambda: count(world, "SELECT count(*) FROM orders") - before, 1)


def cancel(world: World, service: str) -> Case:
    order_id = world.place()
    return Case(f"/orders/{order_id}/cancel", {}, lambda: noted(world, "OrderCancellationRequested", order_id), 1)


def retry(world: World, service: str) -> Case:
    [order_id] = needing_attention(world, 1)
    return Case(f"/orders/{order_id}/retry", WHO, lambda: noted(world, "OrderRetryRequested", order_id), 1)


def retry_all(world: World, service: str) -> Case:
    ids = needing_attention(world, len(Workflow))
    return Case("/orders/retry", WHO, lambda: noted(world, "OrderRetryRequested", *ids), len(ids))


def restock(world: World, service: str) -> Case:
    def available() -> int:
        return int(world.execute("inventory", "SELECT available FROM stock WHERE sku = 'RARE-1'")[0][0])

    before = available()
    return Case("/stock/RARE-1/restock", {"quantity": 7}, lambda: available() - before, 7)


def redrive(world: World, service: str) -> Case:
    dead_letters(world, service)
    return Case("/dlq/redrive", WHO | {"all": True}, lambda: len(world.broker.queues[service].waiting), LETTERS)


def discard(world: World, service: str) -> Case:
    dead_letters(world, service)
    queue = world.broker.queues[service]
    return Case("/dlq/discard", WHO | {"all": True}, lambda: LETTERS - len(queue.parked), LETTERS)


CASES: Final[dict[str, Callable[[World, str], Case]]] = {
    "/orders": place,
    "/orders/<id:order_id>/cancel": cancel,
    "/orders/<id:order_id>/retry": retry,
    "/orders/retry": retry_all,
    "/stock/<sku:sku>/restock": restock,
    "/dlq/redrive": redrive,
    "/dlq/discard": discard,
}
"""The cases by route. A new POST needs a case that says what it does once."""

ROUTES: Final = [
    *((s, rule) for s in BUILD for rule in ("/dlq/redrive", "/dlq/discard")),
    *(("order", rule) for rule in CASES if rule.startswith("/orders")),
    ("inventory", "/stock/<sku:sku>/restock"),
]


def count(world: World, sql: str, *parameters: Any) -> int:
    return int(world.execute("order", sql, list(parameters))[0][0])


def noted(world: World, what: str, *order_ids: str) -> int:
    sql = "SELECT count(*) FROM order_log WHERE type = %s AND order_id = ANY(%s::uuid[])"
    return count(world, sql, what, list(order_ids))


def needing_attention(world: World, number: int) -> list[str]:
    """Orders of every workflow that wait for an operator."""
    world.execute("order", "UPDATE orders SET attention = false WHERE attention")
    workflows = list(Workflow)
    ids = [world.place(workflow=workflows[i % len(workflows)]) for i in range(number)]
    mark = "UPDATE orders SET attention = true, status = 'NEEDS_ATTENTION' WHERE id = ANY(%s::uuid[])"
    world.execute("order", mark, [ids])
    return ids


def dead_letters(world: World, service: str) -> None:
    queue = world.broker.queues[service]
    queue.parked.clear()
    world.publish(service)  # records of earlier cases
    world.broker.queues["inventory"].waiting.clear()
    for _ in range(LETTERS):
        world.place(workflow=Workflow.CHOREOGRAPHY)
    world.publish("order")
    bodies = [d.body for d in world.broker.queues["inventory"].waiting][-LETTERS:]
    for each in world.broker.queues.values():
        each.waiting.clear()
    for body in bodies:
        queue.put(body)
    while taken := queue.receive(10, 0):
        for delivery in taken:
            queue.park(delivery, "for the test")


@pytest.fixture(scope="module")
def lost() -> dict[str, LostCommits]:
    return {name: LostCommits() for name in BUILD}


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str], lost: dict[str, LostCommits]) -> Iterator[World]:
    """Each service reaches its database through a proxy. Nothing is delivered: staged messages can be counted."""
    with ExitStack() as stack:
        urls = {name: stack.enter_context(lost[name].between(new_database(name))) for name in BUILD}
        with failing_on_purpose(World(urls | {"providers": new_database(None)})) as made:
            yield made
        made.close()


@pytest.fixture(autouse=True)
def _disarmed(lost: dict[str, LostCommits]) -> Iterator[None]:
    yield
    failpoints.disarm()
    for one in lost.values():
        one.disarm()


def test_every_post_says_why_it_may_be_repeated(world: World) -> None:
    """All POST routes of all services, and nothing else, have a case here."""
    found = set()
    for service in BUILD:
        app = world.http(service).application
        for rule in app.url_map.iter_rules():
            if rule.methods & {"POST", "PATCH", "DELETE"}:
                view = declared(app.view_functions[rule.endpoint])
                assert view, rule.rule
                assert view.idempotent in ("itself", "key"), rule.rule
                found.add((service, rule.rule))
    assert found == set(ROUTES)
    assert {rule for _, rule in found} == set(CASES)


@pytest.mark.parametrize(("service", "rule"), ROUTES)
def test_lost_on_its_way_to_the_service(
    world: World, lost: dict[str, LostCommits], service: str, rule: str, measured: Callable[..., None]
) -> None:
    """The answer is lost at the first, second … commit of a request: the 503 says that the outcome is unknown and how
    to learn it, and a repeat with the same key has no second effect. A third request gets the second's answer."""
    swallowed, known = 0, 0
    for nth in range(1, 20):
        case, http, key = CASES[rule](world, service), world.http(service), {"Idempotency-Key": clock.new_id()}
        lost[service].arm(nth)
        first = http.post(case.path, json=case.body, headers=key)
        fired = lost[service].fired
        lost[service].disarm()
        if not fired:
            assert first.status_code < 300, first.text
            break
        swallowed += 1
        # A loss after the answer is known (at the release of the key …) has no consequence.
        if first.status_code == 503:
            known += 1
            assert first.json["title"] == "Outcome unknown"
            assert "repeat it" in first.json["detail"]
        again = http.post(case.path, json=case.body, headers=key)
        assert again.status_code in (200, 202), again.text
        assert case.effect() == case.wanted, (nth, again.text)
        third = http.post(case.path, json=case.body, headers=key)
        assert (third.status_code, third.json) == (again.status_code, again.json)
        assert case.effect() == case.wanted
    measured(swallowed=swallowed)
    assert known >= 1
    assert nth > 1


@pytest.mark.parametrize(("service", "rule"), ROUTES)
def test_lost_with_the_process(world: World, service: str, rule: str) -> None:
    """The process dies right after a commit, the first or a later one; the next process knows the outcome."""
    died = 0
    for nth in range(1, 20):
        case, key, hits = CASES[rule](world, service), {"Idempotency-Key": clock.new_id()}, 0

        def die(wanted: int = nth) -> None:
            nonlocal hits
            hits += 1
            if hits == wanted:
                raise Crash

        failpoints.arm("commit.after", die)
        with suppress(Crash):
            world.http(service).post(case.path, json=case.body, headers=key)
        failpoints.disarm()
        if hits < nth:
            break
        died += 1
        # The key of a request in several transactions belongs to the dead process until its lease ends.
        late = "UPDATE idempotency SET leased_until = now() WHERE leased_until IS NOT NULL"
        world.execute(service, late)
        again = world.http(service).post(case.path, json=case.body, headers=key)
        assert again.status_code in (200, 202), again.text
        assert case.effect() == case.wanted, nth
    assert died >= 1


@pytest.mark.parametrize(("service", "rule"), ROUTES)
def test_lost_on_its_way_to_the_caller(world: World, service: str, rule: str) -> None:
    """A repeat of the request with its key gets the same answer, marked as a replay; if the route itself is idempotent,
    the repeat has no second effect."""
    case, http, key = CASES[rule](world, service), world.http(service), {"Idempotency-Key": clock.new_id()}
    first = http.post(case.path, json=case.body, headers=key)
    assert first.status_code in (200, 202), first.text
    assert "Idempotent-Replayed" not in first.headers
    again = http.post(case.path, json=case.body, headers=key)
    assert (again.status_code, again.json) == (first.status_code, first.json)
    assert again.headers.get("Location") == first.headers.get("Location")
    assert case.effect() == case.wanted
    if rule != "/orders/<id:order_id>/cancel":
        assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize(("service", "rule"), ROUTES)
def test_without_a_key_the_outcome_is_said_to_be_unknown(
    world: World, lost: dict[str, LostCommits], service: str, rule: str
) -> None:
    """No answer says that nothing happened, or to try again, if that could have a second effect."""
    case = CASES[rule](world, service)
    lost[service].arm(1)
    answer = world.http(service).post(case.path, json=case.body)
    assert lost[service].fired == 1
    assert (answer.status_code, answer.json["title"]) == (503, "Outcome unknown")
    safe = rule == "/orders/<id:order_id>/cancel"
    assert ("no second effect" in answer.json["detail"]) == safe
    assert ("may have a second effect" in answer.json["detail"]) != safe


@pytest.mark.parametrize("lasting", [False, True])
def test_what_failed_again_is_not_redriven_by_a_repeat(
    world: World, lost: dict[str, LostCommits], lasting: bool
) -> None:
    """A redrive's answer is lost, and its messages fail again and come back: the repeat only says that they were
    redriven. `lasting`: the redrive had finished; otherwise its last answer was still to be stored."""
    case, key = redrive(world, "payment"), {"Idempotency-Key": clock.new_id()}
    http, queue = world.http("payment"), world.broker.queues["payment"]
    lost["payment"].arm(2, most=0 if lasting else 1)  # the first batch was recorded by then
    http.post(case.path, json=case.body, headers=key)
    assert lost["payment"].fired == (0 if lasting else 1)
    lost["payment"].disarm()
    redriven = len(queue.waiting)
    while taken := queue.receive(10, 0):
        for delivery in taken:
            queue.park(delivery, "failed again")
    again = http.post(case.path, json=case.body, headers=key)
    assert len(again.json["settled"]) == LETTERS
    assert len(queue.waiting) == LETTERS - redriven
    assert len(queue.parked) == redriven
