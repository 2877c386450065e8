"""Revisions are frozen: what they give a new database is what the code's constants say, and they import neither."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module

import psycopg
import pytest

from orderflow import idempotency
from orderflow.database.migrate import folder_of, migrate
from orderflow.messaging import inbox, outbox, receivers
from orderflow.routing import SERVICES
from orderflow.saga import audit_log
from orderflow.telemetry import shared_counters
from services.inventory.models import START

NewDatabase = Callable[[str | None], str]
LOGS = {"order": "order_log", "orchestrator": "saga_log"}
MODULES = {"orchestrator": ("orchestrator.store", "orchestrator.watched_executions")}
"""With a service's own tables; of other services `models`."""

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


def constants(service: str) -> list[str]:
    """The SQL of all tables that a service's code knows."""
    logs = [audit_log.table(LOGS[service])] if service in LOGS else []
    logs += [receivers.TABLES] if service in LOGS else []
    own = [import_module(name).TABLES for name in MODULES.get(service, (f"services.{service}.models",))]
    return [outbox.TABLE, inbox.TABLES, idempotency.TABLE, shared_counters.TABLE, *logs, *own]


@pytest.mark.parametrize("service", SERVICES)
def test_revisions_give_what_the_code_describes(service: str, new_database: NewDatabase) -> None:
    """Who changes a constant adds a revision that brings existing databases there, and new ones too."""
    url = new_database(None)
    with psycopg.connect(url) as connection:
        for statement in constants(service):
            connection.execute(statement)
    migrated, described = schema_of(new_database(service)), schema_of(url)
    assert "outbox: storage" in described
    different = [
        f"{what}\n    revisions: {migrated.get(what, 'none')}\n    constants: {described.get(what, 'none')}"
        for what in sorted(migrated | described)
        if migrated.get(what) != described.get(what)
    ]
    if different:
        pytest.fail("\n".join([f"{service}'s revisions and its code's constants differ:", *different]), pytrace=False)


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
