"""What is asked of big tables costs what it returns, whatever they hold: by index, with few pages read. Row 32.

Counted in pages of 8 KiB as PostgreSQL counts them, not in time: a busy machine changes none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg import sql
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer
from pydantic import SecretStr

from lab.bench.history import fill
from orderflow import clock
from orderflow.broker.memory import MemoryBroker
from orderflow.database import Database
from orderflow.database.partitions import Partitioned
from orderflow.service import Service
from orderflow.settings import Settings
from orderflow.web import create_app
from services.order import due as looks
from services.order import main as order
from services.order import models

pytestmark = pytest.mark.row(32)

STORED, OPEN = 40_000, 8_000
DAY = 86400.0
HELD = 2_000
"""Pages of the orders alone, at least: what a statement without an index would read."""
_TYPES = """
SELECT CASE WHEN o = 0 THEN 'unknown' ELSE format_type(o, NULL) END
FROM unnest(%s::oid[]) WITH ORDINALITY AS asked(o, n) ORDER BY n
"""


@pytest.fixture(scope="module")
def service(new_database: Callable[[str | None], str]) -> Iterator[Service]:
    """The order service over 40,000 orders of a hundred days, in as many partitions as they would have come to."""
    url = new_database("order")
    settings = Settings(aws_endpoint_url="http://memory", database_url=SecretStr(url), orderflow_operator_keys=())
    made = order.build(settings, MemoryBroker())
    made.database.open()
    for kept in models.kept(settings):
        if isinstance(kept, Partitioned):
            now = time.time() // kept.seconds * kept.seconds
            for number in range(1, 18):
                lower, upper = (kept.literal(now - n * kept.seconds) for n in (number, number - 1))
                name = f"{kept.table}_{number}"
                made.database.query(
                    f"CREATE TABLE {name} PARTITION OF {kept.table} FOR VALUES FROM ({lower}) TO ({upper})"
                )
    assert made.prune()
    fill(url, orders=STORED, still_open=OPEN, log=STORED, inbox=1_000)
    yield made
    made.database.close()


@pytest.fixture
def pages(service: Service, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Pages that each statement asked of the database touches, as the service asks it; and no table is read whole."""
    asked: dict[str, int] = {}
    query = Database.query

    def explained(self: Database, statement: str, parameters: Any = None) -> list[Any]:
        if statement.lstrip().startswith("SELECT"):
            plan = executed(service, statement, parameters)
            whole = [n["Relation Name"] for n in nodes(plan) if n["Node Type"] == "Seq Scan" and n["Actual Loops"]]
            assert not [name for name in whole if name.startswith("order")], statement
            asked[statement] = touched(plan)
        return query(self, statement, parameters)

    monkeypatch.setattr(Database, "query", explained)
    return asked


def executed(service: Service, statement: str, parameters: Any = None) -> dict[str, Any]:
    """The plan of a prepared statement, which is made for any values, and what it did with these."""
    with service.database.transaction() as connection:
        asked = PostgresQuery(Transformer(connection))
        asked.convert(statement, parameters)
        values = [parameters[name] for name in asked._order] if asked._order else list(parameters or ())
        given = sql.SQL(", ").join(map(sql.Literal, values))
        types = ", ".join(name for (name,) in connection.execute(_TYPES, [list(asked.types or ())]))
        connection.execute(f"PREPARE asked{f' ({types})' if types else ''} AS ".encode() + asked.query)
        execute = sql.SQL("EXECUTE asked({})").format(given) if values else sql.SQL("EXECUTE asked")
        found = connection.execute(sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}").format(execute)).fetchall()
        connection.execute(b"DEALLOCATE asked")
    plan: dict[str, Any] = found[0][0][0]["Plan"]
    return plan


def touched(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


@pytest.fixture(scope="module")
def client(service: Service) -> FlaskClient:
    return create_app(service, [order.blueprint(service)]).test_client()


def test_there_is_much_to_read(service: Service) -> None:
    [(held,)] = service.database.query(
        "SELECT sum(relpages) FROM pg_class WHERE relname LIKE 'orders%%' AND relkind = 'r'", []
    )
    assert held > HELD


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "status=CONFIRMED",
        "status=CANCELLED",
        "status=STOCK_RESERVED",
        "status=PLACED",
        "status=NEEDS_ATTENTION",
        "workflow=hybrid",
        "customer_id=c-77",
        "status=CANCELLED&workflow=choreography",
        "stuck=true",
    ],
)
def test_a_page_of_orders_costs_what_it_shows(asked: str, client: FlaskClient, pages: dict[str, int]) -> None:
    """By any filter, from the first page to one in the middle: some pages for each of its orders."""
    answer = client.get(f"/orders?limit=20&{asked}").json
    assert "items" in answer, answer
    if cursor := answer["next_cursor"]:
        answer = client.get(f"/orders?limit=20&{asked}&cursor={cursor}").json
        assert answer["items"][0]["id"] < cursor
    assert pages
    assert max(pages.values()) < HELD / 10, pages


def test_one_order_and_its_timeline(client: FlaskClient, pages: dict[str, int]) -> None:
    """The order's one partition; of its log only what was written since."""
    order_id = client.get("/orders?limit=1&status=STOCK_RESERVED").json["items"][0]["id"]
    pages.clear()
    assert client.get(f"/orders/{order_id}").status_code == 200
    assert client.get(f"/orders/{order_id}/timeline").status_code == 200
    assert len(pages) >= 3
    assert max(pages.values()) < 40, pages


def test_a_look_costs_what_is_due(service: Service) -> None:
    """Thousands are open, three are due: the look reads some pages. Those whose time was put off are put off in the
    index once, and then no look comes across them."""
    database = service.database

    def looked(statement: bytes, **parameters: object) -> int:
        return touched(executed(service, statement.decode(), parameters))

    first = looked(looks._PUT_OFF, lag=0.0, put_off=OPEN)  # what the release before has left
    database.query("VACUUM orders")
    due = "SELECT id FROM orders WHERE open ORDER BY id DESC LIMIT 3"
    database.query(f"UPDATE orders SET next_at = now() - interval '1 s' WHERE id IN ({due})")
    assert first > 10 * looked(looks._PUT_OFF, lag=0.0, put_off=2_000)
    assert looked(looks._DUE, lag=0.0, waits="{}", limit=100) < 150
    with database.transaction() as connection:
        found, more = looks.due(connection, 0.0, {}, 100)
    assert (len(found), more) == (3, False)


def test_a_step_of_an_order_changes_no_index_for_its_times(service: Service) -> None:
    """Progress moves `next_at` on every row: its look stays where it is, until the owner comes across it."""
    database = service.database
    [(order_id, look_at)] = database.query("SELECT id::text, look_at FROM orders WHERE open ORDER BY id DESC LIMIT 1")
    database.query(
        "UPDATE orders SET look_at = now() + interval '5 s', next_at = now() + interval '5 s' WHERE id = %s", [order_id]
    )
    [(look_at,)] = database.query("SELECT look_at FROM orders WHERE id = %s", [order_id])
    with database.transaction() as connection:
        found = models.read(models.lock(connection, [order_id]), [order_id])[order_id]
        found.progressed, found.next_in = True, 10.0
        models.save(connection, [found])
    [(same, later)] = database.query("SELECT look_at, next_at > look_at FROM orders WHERE id = %s", [order_id])
    assert (same, later) == (look_at, True)
    with database.transaction() as connection:
        found = models.read(models.lock(connection, [order_id]), [order_id])[order_id]
        found.next_in = 1.0
        models.save(connection, [found])
    [(sooner,)] = database.query(
        "SELECT look_at = next_at AND look_at < %s FROM orders WHERE id = %s", [look_at, order_id]
    )
    assert sooner, "never later than what is due"


def test_what_reads_partitions_is_planned_once(service: Service) -> None:
    """Not anew each time it is executed, which takes the longer the more partitions there are."""
    plans = (
        b"SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%FOR UPDATE%AS found%'"
    )
    with service.database.transaction() as connection:
        for _ in range(20):
            connection.execute(models._LOCK, [[clock.new_id()]], prepare=True).fetchall()
        made = connection.execute(plans).fetchall()
    assert made == [(20, 0)]
