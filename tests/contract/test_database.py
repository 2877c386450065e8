"""A database that is away: who asks for a connection waits a moment, the next ones hardly, until there is one again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from orderflow.database import Database
from orderflow.errors import DatabaseUnavailable
from tests.support.system import until

CUT = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"


def test_who_finds_it_away_spares_the_others_the_wait(
    new_database: Callable[[str | None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database(None)
    server, _, name = url.rpartition("/")
    database = Database(url, size=2)
    waits: list[float] = []
    get = database._pool.connection

    def connection(timeout: float) -> Any:
        waits.append(timeout)
        return get(timeout)

    monkeypatch.setattr(database._pool, "connection", connection)
    database.open()
    try:
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
    finally:
        database.close()
