"""Behind a pooler, which gives each transaction another session: settings hold, nothing is left behind, all works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from orderflow.contracts import EventBus, Workflow
from orderflow.database import Database
from orderflow.database.migrate import head_of, migrate
from orderflow.errors import Contended, DatabaseUnavailable
from simulator.ledger import Ledger
from tests.support.load import each_kind
from tests.support.oracle import check
from tests.support.pooler import pooled
from tests.support.ports import free_port
from tests.support.system import until
from tests.support.world import BUILD, World

NewDatabase = Callable[[str | None], str]
WAYS = {"transaction": ("transaction", ""), "options-ignored": ("transaction", "options"), "session": ("session", "")}
SHOWN = (
    "SELECT current_setting('lock_timeout'), current_setting('statement_timeout'), current_setting('enable_seqscan')"
)
MEANT = [("300ms", "10s", "off")]
LOCKS = """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


@pytest.fixture(scope="module", params=WAYS)
def through(request: pytest.FixtureRequest, new_database: NewDatabase) -> Iterator[Callable[[str], str]]:
    """The way through the pooler to a database."""
    mode, ignored = WAYS[request.param]
    with pooled(new_database(None), mode, ignored=ignored) as at:
        yield lambda url: f"{at}/{url.rpartition('/')[2]}"


@pytest.fixture
def opened() -> Iterator[Callable[[str], Database]]:
    made: list[Database] = []

    def open_(url: str) -> Database:
        made.append(Database(url, size=4))
        made[-1].open()
        until(made[-1].alive, 10)
        return made[-1]

    yield open_
    for database in made:
        database.close()


def test_settings_hold_in_every_transaction(
    new_database: NewDatabase, through: Callable[[str], str], opened: Callable[[str], Database]
) -> None:
    """Many at a time, over few sessions; and a statement that is asked for often is no other session's."""
    database = opened(through(new_database(None)))

    def ask(number: int) -> list[Any]:
        if number % 2:
            return database.query(SHOWN)
        with database.transaction() as connection:
            return connection.execute(SHOWN.encode()).fetchall()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(200))) == [MEANT] * 200
    assert database.query("SELECT %s::uuid[]", [["01a22083-01f3-7716-802a-8fb6f2e7dd4e"]])


def test_what_fails_is_rolled_back(
    new_database: NewDatabase, through: Callable[[str], str], opened: Callable[[str], Database]
) -> None:
    """A statement by itself, a transaction, and one that waits for a row for too long."""
    url = new_database(None)
    database = opened(through(url))
    database.query("CREATE TABLE rows (id int PRIMARY KEY)")
    database.query("INSERT INTO rows VALUES (1)")
    for _ in range(6):
        with pytest.raises(psycopg.errors.UniqueViolation):
            database.query("INSERT INTO rows VALUES (2), (1)")
    with psycopg.connect(url) as holder:
        holder.execute("SELECT * FROM rows FOR UPDATE")
        with pytest.raises(Contended):
            database.query("SELECT * FROM rows FOR UPDATE")
    assert database.query("SELECT * FROM rows") == [(1,)]


@pytest.mark.parametrize("by", ["the URL", "PGOPTIONS"])
def test_own_options_stay(
    new_database: NewDatabase, opened: Callable[[str], Database], by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is set again and again on a session of one's own."""
    url = new_database(None)
    if by == "PGOPTIONS":
        monkeypatch.setenv("PGOPTIONS", "-c work_mem=7MB")
    database = opened(f"{url}?options=-c%20work_mem%3D7MB" if by == "the URL" else url)
    assert database.query("SHOW work_mem") == [("7MB",)]
    with database.transaction() as connection:
        assert connection.opening is None  # type: ignore[attr-defined]
        assert connection.execute(SHOWN.encode()).fetchall() == MEANT


def test_a_role_s_settings_are_taken_as_they_are(
    new_database: NewDatabase, through: Callable[[str], str], opened: Callable[[str], Database]
) -> None:
    """Only what is missing is set."""
    url = new_database(None)
    name = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as administrator:
        administrator.execute(f"ALTER DATABASE {name} SET lock_timeout = '300ms'".encode())
    database = opened(through(url))
    assert database.query(SHOWN) == MEANT
    with database.transaction() as connection:
        opening = connection.opening  # type: ignore[attr-defined]
    assert b"statement_timeout" in opening
    assert b"lock_timeout" not in opening


def test_it_migrates(new_database: NewDatabase, through: Callable[[str], str]) -> None:
    """From nothing, by several at once, and no lock is left that would keep the next one out."""
    url = new_database(None)
    way = through(url)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: migrate("order", way), range(3)))
    for _ in range(4):
        migrate("order", way)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(head_of("order"),)]
        assert connection.execute(LOCKS).fetchone() == (0,)


def test_the_providers_give_up_in_time(new_database: NewDatabase, through: Callable[[str], str]) -> None:
    """What timed out at the caller's must not take effect later on."""
    ledger = Ledger(through(new_database(None)), timeout=2, size=2)
    try:
        for _ in range(4):
            assert ledger._rows("SHOW statement_timeout", []) == [("1800ms",)]
        assert ledger.faults("payment") is None
    finally:
        ledger.close()


@pytest.fixture(scope="module")
def world(new_database: NewDatabase) -> Iterator[World]:
    """A system whose services reach their databases through the pooler."""
    urls = {name: new_database(name) for name in BUILD} | {"providers": new_database(None)}
    with pooled(urls["order"], "transaction") as at:
        made = World({name: f"{at}/{url.rpartition('/')[2]}" for name, url in urls.items()})
        made.urls = urls  # from outside, it is looked at directly
        yield made
        made.close()


@pytest.mark.parametrize("kind", each_kind())
def test_orders_get_through(world: World, kind: tuple[Workflow, EventBus]) -> None:
    """Every service, with all that it does in its database."""
    orders = [world.place(workflow=kind[0], event_bus=kind[1]) for _ in range(3)]
    orders.append(world.place(payment_method="pm_card_declined", workflow=kind[0], event_bus=kind[1]))
    world.settle()
    world.pass_time(1)
    for service in world.services.values():
        service.prune()
    assert [world.status(order_id) for order_id in orders] == ["CONFIRMED"] * 3 + ["CANCELLED"]
    check(world.urls, acknowledged=orders)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda url: url.replace("postgres:", "postgres:wrong", 1), "password authentication failed"),
        (lambda url: url.rpartition("/")[0] + "/nowhere", 'database "nowhere" does not exist'),
        (lambda url: f"postgresql://ada@127.0.0.1:{free_port()}/orders", "Connection refused"),
    ],
    ids=["a wrong password", "no such database", "nobody listens"],
)
def test_why_it_does_not_connect_is_told(new_database: NewDatabase, change: Callable[[str], str], why: str) -> None:
    """In the server's words, without password or address."""
    database = Database(change(new_database(None)), size=1)
    database.open()
    try:
        until(lambda: why in (database.problem() or ""), 10, database.problem)
        assert "127.0.0.1" not in (database.problem() or "")
        with pytest.raises(DatabaseUnavailable):
            database.query("SELECT 1")
    finally:
        database.close()
