"""A real PostgreSQL for the tests: one server for all test processes of a run, and a database for each that asks."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from orderflow.database.migrate import migrate
from runtime.embedded.postgres import Postgres
from runtime.home import PROJECT, Home
from tests.support.ports import free_port

_numbers = itertools.count(1)


class Server:
    """A running server that this process keeps alive."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url

    def database(self, service: str | None = None) -> str:
        """The URL of a new database: with the schema of `service`, or empty."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            _copy(connection, name, self._template(connection, service) if service else "template1")
        return self._at(name)

    def copy(self, url: str) -> str:
        """The URL of a copy of a database as it is now. Nobody may be connected to the original."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            _copy(connection, name, url.rpartition("/")[2])
        return self._at(name)

    @contextmanager
    def failing_over(self, url: str) -> Iterator[Callable[[], None]]:
        """Ends a database's sessions and puts a standby in its place: it has all that was committed, and accepts no
        writes until the returned function promotes it."""
        name = url.rpartition("/")[2]
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            connection.execute(end, [name])
            while connection.execute("SELECT FROM pg_stat_activity WHERE datname = %s", [name]).rowcount:
                time.sleep(0.01)
            connection.execute(f"CREATE DATABASE {name}_standby TEMPLATE {name}")
            connection.execute(f"ALTER DATABASE {name} RENAME TO {name}_lost")
            connection.execute(f"ALTER DATABASE {name}_standby RENAME TO {name}")
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")

            def promote() -> None:
                connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
                connection.execute(end, [name])

            try:
                yield promote
            finally:
                promote()
                connection.execute(f"DROP DATABASE {name}_lost")

    def drop(self, url: str) -> None:
        """Drops a database, whoever is connected to it."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    @contextmanager
    def databases(self) -> Iterator[Callable[[str | None], str]]:
        """Yields a function that returns URLs of new databases, as `database` does; they are dropped at the end."""
        made: list[str] = []

        def make(service: str | None = None) -> str:
            made.append(self.database(service))
            return made[-1]

        yield make
        for url in made:
            self.drop(url)

    def _template(self, connection: psycopg.Connection, service: str) -> str:
        name = f"template_{service}"
        with locked(self._folder):
            if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchall():
                connection.execute(f"CREATE DATABASE {name}_new")
                migrate(service, self._at(f"{name}_new"))
                connection.execute(f"ALTER DATABASE {name}_new RENAME TO {name}")
        return name

    def _at(self, name: str) -> str:
        return f"{self._url.rpartition('/')[0]}/{name}"


def _copy(connection: psycopg.Connection, name: str, template: str) -> None:
    # Through the write-ahead log, as by default, a copy takes the processor three times as long.
    connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """The server of all test processes with the same `folder`: the first starts it, the end of the last stops it."""
    with locked(folder):
        found = _join(folder) or _start(folder)
    pipe, url = found
    try:
        yield Server(folder, url)
    finally:
        os.close(pipe)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One test process at a time."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _hold(folder: Path) -> int | None:
    try:
        return os.open(folder / "pipe", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # nobody reads it yet, or nobody does any more
        return None


def _join(folder: Path) -> tuple[int, str] | None:
    pipe = _hold(folder)
    return None if pipe is None else (pipe, (folder / "url").read_text())


def _start(folder: Path) -> tuple[int, str]:
    port = free_port()
    home = Home(folder / "home")
    home.make()
    postgres = Postgres(home, port)
    postgres.prepare()
    (folder / "pipe").unlink(missing_ok=True)
    os.mkfifo(folder / "pipe")
    with (folder / "postgres.log").open("a") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.support.keeper", str(home.path), str(port), str(folder / "pipe")],
            cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    pipe = None
    ends = time.monotonic() + 20
    while pipe is None or not postgres.answers():
        if pipe is None and (joined := _hold(folder)) is not None:
            pipe = joined
        if time.monotonic() > ends or keeper.poll() is not None:
            raise RuntimeError(f"PostgreSQL did not start:\n{(folder / 'postgres.log').read_text()[-2000:]}")
        time.sleep(0.05)
    password = json.loads((home.state / "passwords.json").read_text())["postgres"]
    url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
    (folder / "url").write_text(url)
    return pipe, url
