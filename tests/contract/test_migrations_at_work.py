"""Migrations beside a service at work: the former release's statements run before, during and after them; a long reader
holds up nobody but the migration; what was begun is continued. Row 32."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from orderflow import clock
from orderflow.database.migrate import folder_of, head_of, migrate
from orderflow.errors import DatabaseUnavailable
from tests.contract.test_migrations import schema_of
from tests.support import former_release as former

pytestmark = pytest.mark.row(32)

NewDatabase = Callable[[str | None], str]
BEFORE: dict[str, str] = {
    "order": "0005", "inventory": "0004", "payment": "0005", "shipping": "0005", "orchestrator": "0006"
}  # fmt: skip
"""The revisions that partition."""
_ID = "CASE WHEN n % 2 = 0 THEN uuidv7() ELSE gen_random_uuid() END"
_LOG = "(order_id, at, service, kind, type) SELECT uuidv7(), now() - n * interval '1 day', 'order', 'event', 'E'"
_OPEN = "'hybrid', 'sns', '{}'"
FILL = {
    "inbox": f"SELECT 'x', {_ID}, 'x', now()",
    "order_log": _LOG,
    "saga_log": _LOG,
    "reservations": f"(order_id, state) SELECT {_ID}, 'released'",
    "payments": f"(order_id, state, fence) SELECT {_ID}, 'done', 1",
    "shipments": f"(order_id, state, fence) SELECT {_ID}, 'done', 1",
    "sagas": f"""(order_id, workflow, event_bus, snapshot, version, facts, state, active, next_at)
        SELECT {_ID}, {_OPEN}, 1, '{{}}', 'running', true, now()""",
    "orders": f"""(id, workflow, event_bus, snapshot, customer_id, amount, currency, placed_id, cancel_id, next_at)
        SELECT {_ID}, {_OPEN}, 'c', 1, 'EUR', uuidv7(), uuidv7(), now()""",
}
"""Half of the ids are of another version: most of them look like times that no first partition takes."""


def fill(connection: psycopg.Connection, table: str) -> None:
    connection.execute(f"INSERT INTO {table} {FILL[table]} FROM generate_series(1, 200) AS n")


@pytest.fixture
def former_schema(new_database: NewDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a database of a service as the former release left it."""

    def make(service: str) -> str:
        folder, url = tmp_path / service, new_database(None)
        folder.mkdir()
        for path in folder_of(service).glob("[0-9]*.py"):
            if path.stem.split("_")[0] < BEFORE[service]:
                shutil.copy(path, folder)
        with monkeypatch.context() as patched:
            patched.setattr("orderflow.database.migrate.folder_of", lambda name: folder)
            migrate(service, url)
        return url

    return make


def tables_of(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname = ANY(%s)", [list(FILL)])
    return [name for (name,) in rows.fetchall()]


@pytest.mark.parametrize("service", sorted(BEFORE))
def test_rows_stay_and_the_schema_is_that_of_a_new_database(
    service: str, former_schema: Callable[[str], str], new_database: NewDatabase
) -> None:
    """No row is lost, wherever its id lies; the first partition is the old table; numbers of log lines continue."""
    url = former_schema(service)
    with psycopg.connect(url, autocommit=True) as connection:
        filled = tables_of(connection)
        assert len(filled) >= 2
        for table in filled:
            fill(connection, table)
        migrate(service, url)
        for table in filled:
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (200,), table
            [(before,)] = connection.execute(f"SELECT count(*) FROM {table}_before").fetchall()
            assert before > 0, table
        for log in {"order_log", "saga_log"} & set(filled):
            fill(connection, log)
            assert (
                connection.execute(f"SELECT count(*), max(seq) FROM {log} GROUP BY seq HAVING count(*) > 1").fetchall()
                == []
            )
            [(most,)] = connection.execute(f"SELECT max(seq) FROM {log}").fetchall()
            assert most > 400
    migrated, fresh = schema_of(url), schema_of(new_database(service))
    assert {k: v for k, v in migrated.items() if migrated.get(k) != fresh.get(k)} == {}
    assert migrated.keys() == fresh.keys()


def work(connection: psycopg.Connection) -> str:
    """An order's life, as the former release has it; its id."""
    order_id, message_id = clock.new_id(), clock.new_id()
    with connection.transaction():
        connection.execute(former.PLACE, [order_id, clock.new_id(), message_id])
        connection.execute(former.LOG, [[order_id], ["order"], ["event"], ["OrderPlaced"], [message_id], [None], [""]])
    for facts, status, is_open in (("StockReserved", "STOCK_RESERVED", True), ("OrderConfirmed", "CONFIRMED", False)):
        message_id = clock.new_id()
        with connection.transaction():
            assert not connection.execute(former.KNOWN, ["order", [message_id]]).fetchall()
            assert len(connection.execute(former.LOCK, [[order_id]]).fetchall()) == 1
            connection.execute(
                former.SAVE,
                [[order_id], [facts], [status], [""], [is_open], [False], [False], [0], [True], [10.0]],
            )
            connection.execute(former.LOG, [[order_id], ["order"], ["event"], [facts], [message_id], [None], [""]])
            connection.execute(former.CLAIM, ["order", [message_id], [""]])
        assert connection.execute(former.KNOWN, ["order", [message_id]]).fetchall() == [(message_id,)]
    assert len(connection.execute(former.TIMELINE, [order_id]).fetchall()) == 3
    connection.execute(former.DUE, [0, 100]).fetchall()
    connection.execute(former.PAGE, ["PLACED", 50]).fetchall()
    return order_id


class Former:
    """Threads that work as the former release does, each retrying an order that met a lock."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self.done: list[str] = []
        self.contended = 0
        self.longest = 0.0
        self.failed: list[Exception] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def __enter__(self) -> Former:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        with psycopg.connect(self._url, autocommit=True, options="-c lock_timeout=5s") as connection:
            while not self._stopping.is_set():
                begun = time.monotonic()
                try:
                    self.done.append(work(connection))
                except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                    self.contended += 1
                except Exception as error:
                    self.failed.append(error)
                    return
                self.longest = max(self.longest, time.monotonic() - begun)

    def works(self, more: int = 20) -> None:
        """Waits until so many more orders are done."""
        goal, ends = len(self.done) + more, time.monotonic() + 120
        while len(self.done) < goal and not self.failed and time.monotonic() < ends:
            time.sleep(0.01)
        assert not self.failed, self.failed
        assert len(self.done) >= goal


def test_the_former_release_works_on_while_the_schema_is_migrated(
    former_schema: Callable[[str], str], measured: Callable[..., None]
) -> None:
    """Before, meanwhile and after: every order gets to its end, and is there."""
    url = former_schema("order")
    with psycopg.connect(url, autocommit=True) as connection:
        for table in tables_of(connection):
            fill(connection, table)
    with Former(url) as load:
        load.works()
        migrate("order", url)
        load.works()
    measured(orders=len(load.done), contended=load.contended, longest_s=load.longest)
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM orders WHERE id = ANY(%s::uuid[]) AND NOT open", [load.done])
        assert found.fetchone() == (len(load.done),)


def test_a_long_reader_holds_up_the_migration_alone(
    former_schema: Callable[[str], str], measured: Callable[..., None]
) -> None:
    """pg_dump reads all tables for ten minutes: the former release works on, the migration gives up, is tried again,
    and is made when the reader has ended."""
    url = former_schema("order")
    with psycopg.connect(url, autocommit=True) as connection:
        for table in tables_of(connection):
            fill(connection, table)
    with Former(url) as load:
        load.works()
        with psycopg.connect(url) as reader:
            for table in ("orders", "order_log", "inbox"):
                reader.execute(f"SELECT count(*) FROM {table}").fetchall()
            with pytest.raises(DatabaseUnavailable, match="long transaction"):
                migrate("order", url, patience=2)
            load.works()
        assert load.contended == 0, "their own time-outs are longer than the migration's"
        migrate("order", url)
        load.works()
    measured(orders=len(load.done), longest_s=load.longest)


def test_an_index_that_was_left_half_built_is_built_again(former_schema: Callable[[str], str]) -> None:
    url = former_schema("order")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE orders ADD COLUMN look_at timestamptz NOT NULL DEFAULT now()")
        connection.execute("CREATE INDEX orders_due ON orders (look_at) WHERE open")
        connection.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'orders_due'::regclass")
        migrate("order", url)
        invalid = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
        assert connection.execute(invalid).fetchall() == []
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(head_of("order"),)]


def test_the_former_release_prunes_nothing_on_the_new_schema(new_database: NewDatabase) -> None:
    """Its ctids name a row within one partition only."""
    with psycopg.connect(new_database("order"), autocommit=True) as connection:
        for table in ("inbox", "order_log"):
            with pytest.raises(psycopg.errors.RaiseException, match="dropping its partitions"):
                connection.execute(former.PRUNE.format(table=table), [1])


def test_what_the_former_release_puts_forward_is_looked_at(new_database: NewDatabase) -> None:
    """It moves `next_at` alone, as an operator's retry does: the newer release's look comes no later."""
    with psycopg.connect(new_database("order"), autocommit=True) as connection:
        order_id = work(connection)
        connection.execute("UPDATE orders SET next_at = now() + interval '1 year', look_at = now() + interval '1 year'")
        connection.execute(
            former.SAVE, [[order_id], [""], ["PAID"], [""], [True], [False], [False], [0], [False], [5.0]]
        )
        assert connection.execute(
            "SELECT look_at = next_at, look_at < now() + interval '1 minute' FROM orders"
        ).fetchone() == (True, True)
