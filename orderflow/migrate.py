"""Brings a service's database to the schema of its code, with Alembic. Safe to run from many processes at once."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any, Final

import psycopg
import structlog

from orderflow.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

_LOCK: Final = 4_210_001
"""An advisory lock: one process migrates, the others wait and find it done."""


def migrate(service: str, url: str, *, patience: float = 30.0) -> None:
    """Migrates the database of `service` at `url`, waiting up to `patience` seconds for it to answer. A schema that is
    newer than this code is left alone: after a rollback, or while a newer release is rolled out.

    Raises DatabaseUnavailable.
    """
    folder, head = folder_of(service), head_of(service)
    ends = time.monotonic() + patience
    while True:
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=2) as connection:
                if _revision(connection) != head:
                    connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
                    found = _revision(connection)  # again: a newer release may have migrated it meanwhile
                    if found is None or found < head:
                        _upgrade(folder, url)
                    elif found > head:
                        log.warning("the schema is newer than this code", service=service, schema=found, code=head)
                return
        except psycopg.OperationalError as error:
            if time.monotonic() > ends:
                raise DatabaseUnavailable(f"{service}'s database does not answer: {error}") from error
            time.sleep(0.3)


def head_of(service: str) -> str:
    """The revision that the code of `service` is written for."""
    return max(path.stem.split("_")[0] for path in folder_of(service).glob("[0-9]*.py"))


def folder_of(service: str) -> Path:
    """The folder with the revisions of `service`, each named `NNNN_what.py`."""
    package = "orchestrator" if service == "orchestrator" else f"services.{service}"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise LookupError(f"no package {package}: this image does not hold the service {service!r}")
    return Path(spec.origin).parent / "migrations"


def _revision(connection: psycopg.Connection[Any]) -> str | None:
    if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def _upgrade(folder: Path, url: str) -> None:
    # Imported here: most starts find nothing to do, and these imports are slow.
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine

    config = Config()
    config.set_main_option("script_location", "orderflow:migrations")
    config.set_main_option("version_locations", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
    engine.dispose()
