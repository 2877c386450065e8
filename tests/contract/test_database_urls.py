"""Every URL that libpq takes works everywhere: in the pool, in a migration, in the providers' ledger."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from orderflow.database import Database, check_url
from orderflow.database.migrate import migrate
from orderflow.errors import ConfigurationError
from simulator.ledger import Ledger
from tests.support.ports import free_port
from tests.support.system import until

NewDatabase = Callable[[str | None], str]
PASSWORD = "p@ss/w:rd %#?&='\\ é"  # as a password manager makes them


def as_url(url: str) -> str:
    return url


def short_scheme(url: str) -> str:
    return url.replace("postgresql://", "postgres://", 1)


def pairs(url: str) -> str:
    return make_conninfo(url)


def several_hosts(url: str) -> str:
    """The first is unavailable."""
    before, _, address = url.rpartition("@")
    return f"{before}@127.0.0.1:{free_port()},{address}"


def parameters(url: str) -> str:
    return f"{url}?connect_timeout=3&sslmode=prefer&options=-c%20statement_timeout%3D9s"


@pytest.mark.parametrize("form", [as_url, short_scheme, pairs, several_hosts, parameters], ids=lambda f: f.__name__)
@pytest.mark.parametrize("password", ["simple", PASSWORD], ids=["simple", "special"])
def test_what_libpq_takes_works_everywhere(
    new_database: NewDatabase, form: Callable[[str], str], password: str
) -> None:
    known = conninfo_to_dict(new_database(None))
    name = known["dbname"]
    with psycopg.connect(make_conninfo(**known), autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{name}" LOGIN SUPERUSER')
        connection.execute(psycopg.sql.SQL("ALTER ROLE {} PASSWORD {}").format(psycopg.sql.Identifier(name), password))
    url = form(f"postgresql://{name}:{quote(password, safe='')}@{known['host']}:{known['port']}/{name}")
    check_url("DATABASE_URL", url)
    migrate("inventory", url)
    database = Database(url, size=1)
    database.open()
    until(database.alive, 10)
    assert database.query("SELECT count(*) > 0 FROM stock") == [(True,)]
    database.close()
    ledger = Ledger(url, timeout=5, size=1)
    ledger.open(10)
    ledger.close()
    with psycopg.connect(make_conninfo(**known), autocommit=True) as connection:
        connection.execute(f'REASSIGN OWNED BY "{name}" TO CURRENT_USER')
        connection.execute(f'DROP ROLE "{name}"')


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cr3t@host:port:port/x",
        "postgresql://me:s3cr3t@host:99999/x",
        "postgresql://me:s3cr3t@[::1/x",
        "postgresql://me:s3cr3t%zz@host/x",
        "postgresql://me@host/x?s3cr3t=1",
        "mysql://me:s3cr3t@host/x",
        "host=h password='s3cr3t",
        "s3cr3t",
    ],
)
@pytest.mark.parametrize("variable", ["DATABASE_URL", "PROVIDERS_DATABASE_URL"])
def test_one_that_it_does_not_take_is_refused_and_not_shown(variable: str, url: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{variable} can't be read") as raised:
        check_url(variable, url)
    assert "s3cr3t" not in str(raised.value)
    assert raised.value.__suppress_context__
