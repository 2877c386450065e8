"""A database that is unavailable or hangs: one at a time waits for a connection, the others are told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from orderflow.database import Database
from orderflow.errors import Contended, DatabaseUnavailable
from tests.support.system import until

CUT = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"


@pytest.fixture
def url(new_database: Callable[[str | None], str]) -> str:
    return new_database(None)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    made = Database(url, size=1)
    made.open()
    yield made
    made.close()


def test_who_finds_it_unavailable_spares_the_others_the_wait(
    url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time waits for it; the others are told at once, and leave nothing behind in the pool."""
    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as administrator:
        assert database.alive()
        administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        administrator.execute(CUT, [name])
        until(lambda: not database.alive() and database._probe_at is not None)
        asked = []
        monkeypatch.setattr(database._pool, "connection", lambda: asked.append("one more waits"))
        with database._probe:
            for _ in range(100):
                assert not database.alive()
            with pytest.raises(DatabaseUnavailable, match="as another thread found"), database.transaction():
                pass
        assert asked == []
        monkeypatch.undo()
        assert not database.alive()
        administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        until(database.alive, 30)
        with database.transaction():
            assert database._probe_at is None
            assert not database._probe.locked()


def test_one_whose_connections_are_all_in_use_is_not_unavailable(database: Database) -> None:
    """They come back: it is worth waiting for them."""
    with database.transaction():
        with pytest.raises(DatabaseUnavailable):
            database.query("SELECT 1")
        assert database._probe_at is None
    assert database.alive()


def test_a_server_that_became_a_standby_is_unavailable(database: Database, url: str) -> None:
    """After a failover old connections lead to one that can't be written: no fault of a message, and not kept."""
    database.query("CREATE TABLE notes (said int)")
    database.query("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
    with pytest.raises(DatabaseUnavailable, match="ReadOnly"):
        database.query("INSERT INTO notes VALUES (1)")
    database.query("INSERT INTO notes VALUES (2)")
    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as administrator:
        administrator.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        administrator.execute(CUT, [name])
        until(lambda: not database.alive() and database._probe_at is not None)
        administrator.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
        until(database.alive, 30)


def test_a_transaction_that_the_server_ended_is_no_fault_of_a_message(database: Database) -> None:
    """psycopg counts this among internal errors, as faults of who asked."""
    with pytest.raises(DatabaseUnavailable), database.transaction():
        raise psycopg.errors.IdleInTransactionSessionTimeout("terminating connection")
    assert database.alive()


def test_one_that_does_not_answer_is_unavailable(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits gives up after a while, for what is pipelined too, and the connection is not used again."""

    def hanging() -> None:
        with database.transaction() as connection:
            connection.execute(b"SELECT pg_sleep(2)")

    for ask in (lambda: database.query("SELECT pg_sleep(2)"), hanging):
        until(database.alive)
        backend = database.query("SELECT pg_backend_pid()")
        monkeypatch.setattr("orderflow.database.pool._ANSWER", 0.2)
        with pytest.raises(DatabaseUnavailable, match=r"no answer within 0\.2 s"):
            ask()
        monkeypatch.undo()
        until(database.alive)
        assert database.query("SELECT pg_backend_pid()") != backend


@pytest.mark.parametrize(
    "failing",
    [
        pytest.param("SELECT 1/0", id="a wrong statement"),
        pytest.param("SELECT nothing FROM nowhere", id="one that can't be parsed"),
        pytest.param("SELECT 1 FROM held FOR UPDATE", id="a lock"),
    ],
)
def test_a_statement_that_fails_costs_no_connection(url: str, database: Database, failing: str) -> None:
    """What was sent behind it is not carried out, and the connection serves the next transaction."""
    backends = set()

    def fail() -> None:
        with database.transaction(lock_timeout=0.01) as connection:
            backends.add(connection.info.backend_pid)
            connection.execute(failing.encode())
            connection.execute(b"INSERT INTO held VALUES (2)")

    with psycopg.connect(url) as holder:
        holder.execute("CREATE TABLE held AS SELECT 1 AS id")
        holder.commit()
        holder.execute("SELECT 1 FROM held FOR UPDATE")
        for _ in range(20):  # not each time are there answers left over when the transaction ends
            with pytest.raises((psycopg.Error, Contended)):
                fail()
    assert len(backends) == 1
    assert database.query("SELECT * FROM held") == [(1,)]
