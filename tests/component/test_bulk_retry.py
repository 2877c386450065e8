"""`POST /orders/retry`: an operator continues with all orders that a filter names, in every workflow."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from orderflow import clock
from orderflow.contracts import Workflow
from tests.support.oracle import check
from tests.support.world import World

WHO = {"by": "ada", "why": "the provider is back"}
OUTAGE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'out of order'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON payments FOR EACH ROW WHEN (NEW.state = 'undone') EXECUTE FUNCTION refuse()
"""


def retry(world: World, **more: Any) -> Any:
    answer = world.http("order").post("/orders/retry", json=WHO | more)
    assert answer.status_code == 202, answer.text
    return answer.json


def needing_attention(world: World, number: int, reason: str = "", **changes: Any) -> list[str]:
    ids = [world.place(**changes) for _ in range(number)]
    mark = "UPDATE orders SET attention = true, status = 'NEEDS_ATTENTION', reason = %s WHERE id = ANY(%s::uuid[])"
    world.execute("order", mark, [reason, ids])
    return ids


def still_waiting(world: World) -> set[str]:
    return {row[0] for row in world.execute("order", "SELECT id::text FROM orders WHERE attention AND open")}


@pytest.fixture(autouse=True)
def _nothing_waits(world: World) -> None:
    world.execute("order", "UPDATE orders SET attention = false WHERE attention")


def test_one_request_ends_all_orders_of_an_outage(world: World) -> None:
    """Of every workflow at once: what a provider's outage left for an operator, 20 undos without an answer each. Who
    asked, and why, is in each timeline."""
    world.execute("payment", OUTAGE)
    try:
        ids = [world.place(workflow=workflow, postal_code="00000") for workflow in list(Workflow) * 2]
        for _ in range(60):
            world.settle()
            world.expire_leases()
            for queue in world.broker.queues.values():
                queue.redeliver()
            world.pass_time(25)
            if {world.status(i) for i in ids} == {"NEEDS_ATTENTION"}:
                break
    finally:
        world.execute("payment", "DROP TRIGGER refuse ON payments; DROP FUNCTION refuse")
    for queue in world.broker.queues.values():
        queue.parked.clear()
    assert {world.status(i) for i in ids} == {"NEEDS_ATTENTION"}
    answer = retry(world)
    assert (answer["retried"], answer["matching"], answer["more"]) == (len(ids), len(ids), False)
    world.recover()
    assert {world.status(i) for i in ids} == {"CANCELLED"}
    for order_id in ids:
        entries = world.http("order").get(f"/orders/{order_id}/timeline").json["entries"]
        assert "ada: the provider is back" in [e["note"] for e in entries if e["type"] == "OrderRetryRequested"]
    check(world.urls)


def test_page_by_page(world: World) -> None:
    """Each order once, oldest first; the first page says how many there are."""
    ids, cursor, pages = needing_attention(world, 7), None, []
    while True:
        page = retry(world, limit=3, **({"cursor": cursor} if cursor else {}))
        pages.append((page["retried"], page["matching"], page["more"]))
        cursor = page["cursor"]
        if not page["more"]:
            break
        needing_attention(world, 0)
        assert still_waiting(world) == set(ids[sum(n for n, _, _ in pages) :])
    assert pages == [(3, 7, True), (3, None, True), (1, None, False)]
    assert cursor == ids[-1]
    assert retry(world) == {"retried": 0, "skipped": 0, "matching": 0, "more": False, "cursor": None}


def test_what_fails_again_meanwhile_does_not_hold_the_pages_up(world: World) -> None:
    """The cursor has passed it: pages come to an end."""
    ids = needing_attention(world, 4)
    first = retry(world, limit=2)
    world.execute("order", "UPDATE orders SET attention = true WHERE id = ANY(%s::uuid[])", [ids[:2]])
    second = retry(world, limit=2, cursor=first["cursor"])
    assert (second["retried"], second["more"]) == (2, False)


def test_the_filter(world: World) -> None:
    """By workflow, by a part of the reason (taken as it is, whatever its case), by how long nothing has changed."""
    hybrid = needing_attention(world, 1, "An undo got no answer", workflow=Workflow.HYBRID)
    other = needing_attention(world, 1, "its coordinator can't be told: 100%_x", workflow=Workflow.ORCHESTRATION)
    both = set(hybrid + other)
    assert retry(world, reason="no such reason")["matching"] == 0
    assert retry(world, older_than=3600)["matching"] == 0
    assert still_waiting(world) == both
    assert retry(world, reason="%_X")["retried"] == 1
    assert still_waiting(world) == set(hybrid)
    assert retry(world, workflow="orchestration")["retried"] == 0
    world.execute("order", "UPDATE orders SET updated_at = now() - interval '2 hours' WHERE id = %s", hybrid)
    assert retry(world, workflow="hybrid", older_than=3600, status="NEEDS_ATTENTION")["retried"] == 1
    assert still_waiting(world) == set()


@pytest.mark.parametrize(
    "body",
    [{"limit": 0}, {"limit": 1001}, {"status": "PLACED"}, {"older_than": -1}, {"cursor": "x"}, {"workflow": "chaos"},
     {"reason": ""}, {"why": ""}, {"all": True}],
)  # fmt: skip
def test_what_can_not_be_meant_is_refused(world: World, body: dict[str, Any]) -> None:
    assert world.http("order").post("/orders/retry", json=WHO | body).status_code == 422


def test_one_locked_order_holds_up_no_other(world: World) -> None:
    """It is left for the next run, and said so."""
    ids = needing_attention(world, 3)
    with psycopg.connect(world.urls["order"]) as other:
        other.execute("SELECT 1 FROM orders WHERE id = %s FOR UPDATE", [ids[1]])
        answer = retry(world)
        assert (answer["retried"], answer["skipped"]) == (2, 1)
    assert still_waiting(world) == {ids[1]}
    assert retry(world)["retried"] == 1


def test_a_row_of_a_newer_release_holds_up_no_other(world: World) -> None:
    ids = needing_attention(world, 3)
    world.execute("order", "UPDATE orders SET workflow = 'newer' WHERE id = %s", [ids[0]])
    assert (retry(world)["retried"], still_waiting(world)) == (2, {ids[0]})
    world.execute("order", "UPDATE orders SET workflow = 'hybrid' WHERE id = %s", [ids[0]])


def test_again_with_its_key(world: World) -> None:
    """The page of before, also when other orders need attention since."""
    needing_attention(world, 2)
    http, key = world.http("order"), {"Idempotency-Key": clock.new_id()}
    first = http.post("/orders/retry", json=WHO, headers=key)
    new = needing_attention(world, 1)
    again = http.post("/orders/retry", json=WHO, headers=key)
    assert (again.json, again.headers["Idempotent-Replayed"]) == (first.json, "true")
    assert still_waiting(world) == set(new)
