"""A database that is away: who asks for a connection waits a moment, the next ones hardly, until there is one again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from orderflow.database import Database
from orderflow.errors import DatabaseUnavailable
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


@pytest.fixture
def waits(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each who asked for a connection would have waited, in seconds."""
    found: list[float] = []
    get = database._pool.connection

    def connection(timeout: float) -> Any:
        found.append(timeout)
        return get(timeout)

    monkeypatch.setattr(database._pool, "connection", connection)
    return found


def test_who_finds_it_away_spares_the_others_the_wait(url: str, database: Database, waits: list[float]) -> None:
    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as administrator:
        assert database.alive()
        administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        administrator.execute(CUT, [name])
        until(lambda: not database.alive() and waits[-1] < waits[0])
        with pytest.raises(DatabaseUnavailable), database.transaction():
            pass
        assert waits[-1] < waits[0]
        administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
        until(database.alive, 30)
        assert database.alive()
        assert waits[-1] == waits[0], "as patient as before"


def test_one_whose_connections_are_all_in_use_is_not_away(database: Database, waits: list[float]) -> None:
    """They come back: it is worth waiting for them."""
    with database.transaction():
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                database.query("SELECT 1")
    assert waits == [waits[0]] * 3
