"""Brings a service's database to the schema of its code, with Alembic. Safe to run from many processes at once."""

from __future__ import annotations

import importlib.util
import itertools
import time
from pathlib import Path
from typing import Any, Final

import psycopg
import structlog

from orderflow.database.session import Session
from orderflow.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

_LOCK: Final = 4_210_001
"""An advisory lock: one process migrates, the others wait and then find it done. They poll for the lock: a process that
waited in a statement would hold a snapshot, and CREATE INDEX CONCURRENTLY waits for all snapshots."""

_TRIES: Final = ((0.2, 0.5), (0.2, 1.0), (0.5, 2.0), (1.0, 5.0), (2.0, 10.0), (2.0, 20.0))
"""Seconds that a revision waits for a lock, and the pause until it is run again; the last pair repeats. Waiting for a
table's exclusive lock delays all later statements, and behind a long reader (pg_dump, a report) for as long as that
reads: so a revision gives up. First within the other statements' lock time-out; later it waits longer, in case they
take seconds."""


def migrate(service: str, url: str, *, patience: float = 30.0) -> None:
    """Migrates the database of `service` at `url`; waits up to `patience` seconds for it to answer. A schema that is
    newer than this code (after a rollback, or during the rollout of a newer release) is not changed.

    If long transactions hold a table, the revision is retried for up to `patience` seconds. Completed steps are kept:
    the next call continues from there.

    Raises DatabaseUnavailable.
    """
    ends = time.monotonic() + patience
    for wait, pause in itertools.chain(_TRIES, itertools.repeat(_TRIES[-1])):
        try:
            if _migrated(service, url, wait):
                return
            problem = f"another process is migrating {service}'s database"
            pause = 0.5
        except psycopg.OperationalError as error:
            problem = f"{service}'s database does not answer: {error}"
            pause = 0.3
        except OutOfTime as error:
            problem = str(error)
            log.warning("migration is waiting for a lock; retrying", service=service, error=problem)
        if time.monotonic() + pause > ends:
            raise DatabaseUnavailable(problem)
        time.sleep(pause)


class OutOfTime(Exception):
    """A revision waited too long for a lock, or lost to a deadlock."""


def _migrated(service: str, url: str, wait: float) -> bool:
    """Migrates if needed, and waits up to `wait` seconds for each lock. False if another process is migrating.

    Raises OutOfTime."""
    head = head_of(service)
    with psycopg.connect(url, autocommit=True, connect_timeout=2) as connection:
        if _revision(connection) == head:
            return True
        # The lock belongs to a transaction, not to a session: a pooler may give the session, with its lock, to another
        # client. Between statements it holds no snapshot, for which CREATE INDEX CONCURRENTLY would wait.
        with connection.transaction():
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            [(alone,)] = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK]).fetchall()
            if not alone:
                return False
            found = _revision(connection)  # read again: a newer release may have migrated meanwhile
            if found is None or found < head:
                _upgrade(folder_of(service), url, wait)
            elif found > head:
                log.warning("the schema is newer than this code", service=service, schema=found, code=head)
    return True


def head_of(service: str) -> str:
    """The revision that the code of `service` needs."""
    return max(path.stem.split("_")[0] for path in folder_of(service).glob("[0-9]*.py"))


def folder_of(service: str) -> Path:
    """The folder with the revisions of `service`, each in a file `NNNN_what.py`."""
    package = "orchestrator" if service == "orchestrator" else f"services.{service}"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise LookupError(f"no package {package}: this image does not contain the service {service!r}")
    return Path(spec.origin).parent / "migrations"


def _revision(connection: psycopg.Connection[Any]) -> str | None:
    if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def _upgrade(folder: Path, url: str, wait: float) -> None:
    # Imported here because these imports are slow, and most starts have nothing to migrate.
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine, event
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", "orderflow.database:migrations")
    config.set_main_option("version_locations", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    # libpq parses the URL, as everywhere else; SQLAlchemy's own parser accepts fewer forms.
    settings = {"lock_timeout": f"{wait * 1000:.0f}ms"}
    engine = create_engine("postgresql+psycopg://", creator=lambda: Session.connect(url, settings=settings))

    @event.listens_for(engine, "begin")
    def _set(connection: Any) -> None:
        if opening := connection.connection.dbapi_connection.opening:
            connection.exec_driver_sql(opening.decode())

    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected):
            holder = "a long transaction (pg_dump, a report; see pg_stat_activity)"
            raise OutOfTime(f"{holder} holds what a revision needs: {error.orig}") from error
        if isinstance(error.orig, psycopg.OperationalError):
            raise error.orig from error
        raise
    finally:
        engine.dispose()
