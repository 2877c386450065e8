"""Revisions are frozen: what they give a new database never changes, and they import nothing that does."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable

import psycopg
import pytest

from orderflow.database.migrate import folder_of, migrate
from orderflow.routing import SERVICES
from services.inventory.models import START

NewDatabase = Callable[[str | None], str]
OWNERS = ("order", "orchestrator")
SHARED = {
    **{name: dict.fromkeys(SERVICES, name) for name in ("outbox", "inbox", "failures", "counters", "idempotency")},
    **{name: dict.fromkeys(OWNERS, name) for name in ("receivers", "given_back", "watches", "frontiers")},
    "log": {"order": "order_log", "orchestrator": "saga_log"},
    "intents": {"payment": "payments", "shipping": "shipments"},
}
"""The kernel's tables: their names by service."""
DIGESTS = {
    "order": "a063c1884bf22c4f",
    "inventory": "e317dfcb15200db5",
    "payment": "ea12c995db8a8f16",
    "shipping": "e1c4ad354b3de472",
    "orchestrator": "ffaf029aa930cc36",
}
"""Of each service's schema after its last revision."""

# Not the order of columns: a revision can only append one. Not the names of NOT NULL constraints: the column says it.
CATALOG = r"""
WITH tables AS (
    SELECT * FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND relname <> 'alembic_version'
        AND (NOT relispartition OR relname LIKE '%\_default')
)
SELECT relname || ': storage', concat_ws(' ', concat('kind ', relkind, ', persistence ', relpersistence),
    reloptions::text, 'toast ' || (SELECT toast.reloptions::text FROM pg_class toast WHERE toast.oid = reltoastrelid))
FROM tables
UNION ALL
SELECT relname || ': column ' || attname, concat_ws(' ', format_type(atttypid, atttypmod),
    CASE WHEN attnotnull THEN 'NOT NULL' ELSE 'NULL' END, 'DEFAULT ' || pg_get_expr(adbin, adrelid),
    'IDENTITY ' || nullif(attidentity::text, ''), 'GENERATED ' || nullif(attgenerated::text, ''))
FROM tables JOIN pg_attribute ON attrelid = tables.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
UNION ALL
SELECT relname || ': constraint ' || conname, pg_get_constraintdef(pg_constraint.oid)
FROM tables JOIN pg_constraint ON conrelid = tables.oid AND contype <> 'n'
UNION ALL
SELECT relname || ': index ' || indexrelid::regclass, pg_get_indexdef(indexrelid)
FROM tables JOIN pg_index ON indrelid = tables.oid
UNION ALL
SELECT relname || ': trigger ' || tgname, pg_get_triggerdef(pg_trigger.oid)
FROM tables JOIN pg_trigger ON tgrelid = tables.oid AND NOT tgisinternal
UNION ALL
SELECT 'function ' || oid::regprocedure, pg_get_functiondef(oid)
FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind IN ('f', 'p')
"""


def schema_of(url: str) -> dict[str, str]:
    """What a database holds, each with its definition."""
    with psycopg.connect(url) as connection:
        return dict(connection.execute(CATALOG).fetchall())


def digest(schema: dict[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{what} {schema[what]}" for what in sorted(schema)).encode()).hexdigest()[:16]


@pytest.mark.parametrize("service", SERVICES)
def test_revisions_give_what_they_gave(service: str, new_database: NewDatabase) -> None:
    """Who changes a schema adds a revision, and the digest here; a revision that exists gives the same for ever."""
    schema = schema_of(new_database(service))
    assert "outbox: storage" in schema
    if digest(schema) != DIGESTS[service]:
        told = "\n".join(f"{what}\n    {schema[what]}" for what in sorted(schema))
        pytest.fail(
            f"{told}\n{service}'s schema has changed. If a new revision does so, its digest is {digest(schema)!r};"
            " if a revision or a frozen file was edited, databases that ran it will never have the change.",
            pytrace=False,
        )


@pytest.mark.parametrize("tables", SHARED.values(), ids=SHARED)
def test_the_kernels_tables_are_alike_in_all_services(tables: dict[str, str], new_database: NewDatabase) -> None:
    """The kernel has one set of statements for them: a service that missed a step of theirs would fail at work."""
    found = {}
    for service, table in tables.items():
        schema = schema_of(new_database(service))
        found[service] = {
            re.sub(rf"\b{table}", "TABLE", what): re.sub(rf"\b{table}", "TABLE", definition)
            for what, definition in schema.items()
            if re.match(rf"(function )?{table}(_default|_waiting|_is_dropped\w*\(\))?(:|$)", what)
            and "outbox_order" not in what  # of owners only
        }
    assert all(found.values())
    for service in tables:
        assert found[service] == found[next(iter(tables))], service


@pytest.mark.parametrize("service", SERVICES)
def test_revisions_import_nothing_that_changes(service: str) -> None:
    """They hold literal SQL: with a constant of the code, its change would change what old revisions give."""
    for path in folder_of(service).glob("[0-9]*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
        live = {name for name in imported if name.partition(".")[0] not in ("alembic", "sqlalchemy")}
        live.discard("orderflow.database.migrations.steps")  # how, not what
        assert not live, f"{path} imports {', '.join(sorted(live))}: print what it takes from there, and hold that"


def test_the_stock_at_the_start_is_what_other_tests_count_on(new_database: NewDatabase) -> None:
    with psycopg.connect(new_database("inventory")) as connection:
        assert dict(connection.execute("SELECT sku, available FROM stock").fetchall()) == START


def test_a_newer_schema_is_left_alone(new_database: NewDatabase) -> None:
    """A rollback, or a replica that starts again while a newer release is rolled out: it works with what is there."""
    url = new_database("payment")
    revision = "SELECT version_num FROM alembic_version"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        migrate("payment", url)
        assert connection.execute(revision).fetchall() == [("9999",)]
