"""Fills the databases with orders as real ones would have left them: copies of the real, ended orders that are stored.

Each copy of an order is consistent across services: all its ids are derived in the same way (UUIDv7s some seconds
older, with other random bits), in every table and key. The shapes, sizes and number of rows are therefore those of real
orders, whatever the schema is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql

from lab.lines import LabProblem
from lab.system import System
from orderflow.routing import SERVICES

_PASSING: Final = frozenset({"outbox", "failures"})
"""Tables that hold ids, but no rows of an order that has ended. Tables without ids don't grow with orders."""

_ID: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

_APART: Final = 7
"""Seconds between two copies of an order, so few that even the oldest copy is too young to be pruned."""

# The number of stored orders (`have`) goes into the new ids: a second run must not repeat the first one's ids.
_FUNCTIONS: Final = """
CREATE FUNCTION pg_temp.copy_of(id uuid, n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint - n * {apart} * 1000),
                 12, '0') || '7' || substr(m, 1, 3) || '8' || substr(m, 4, 15))::uuid
    FROM md5(concat(id, ' ', n, ' ', {have})) AS m
$$;
CREATE FUNCTION pg_temp.copy_of(held text, n int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE found text := substring(held FROM {id});
BEGIN
    RETURN CASE WHEN found IS NULL THEN held ELSE replace(held, found, pg_temp.copy_of(found::uuid, n)::text) END;
END $$
"""
_TABLES: Final = """
SELECT c.relname, a.attname, format_type(a.atttypid, NULL)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
AND a.attnum > 0 AND NOT a.attisdropped
AND a.attidentity = '' AND a.attgenerated = '' ORDER BY c.relname, a.attnum
"""
_COPY: Final = """
INSERT INTO {} ({}) SELECT {}
FROM generate_series(%s::int, 1, -1) AS n CROSS JOIN LATERAL (SELECT * FROM originals WHERE n > 0 OFFSET 0) AS o
"""
"""Inserts the oldest first, as real orders would have come. `WHERE n > 0 OFFSET 0` keeps the series outermost."""
_RESERVED: Final = "UPDATE stock SET available = available - reserved * %(n)s, reserved = reserved * (1 + %(n)s)"


def stored(system: System) -> int:
    """The number of stored orders. Raises LabProblem."""
    with _connected(system, "order") as connection:
        return int(connection.execute("SELECT count(*) FROM orders").fetchall()[0][0])


def fill(system: System, wanted: int, report: Callable[[str], None] = lambda text: None) -> str:
    """Copies stored orders until there are at least `wanted`. Returns a description of what was done.

    Raises LabProblem if orders are still open, or there is none to copy.
    """
    have = stored(system)
    with _connected(system, "order") as connection:
        if connection.execute("SELECT count(*) FROM orders WHERE open").fetchall() != [(0,)] or not have:
            raise LabProblem(f"{have} orders are stored; some that have ended, and none that is open, could be copied")
    copies = max(0, -(-wanted // have) - 1)
    began = time.monotonic()
    rows = 0
    for name in (*SERVICES, "providers"):
        report(f"{wanted:,} orders: {name}")
        with _connected(system, name) as connection:
            if copies:
                rows += _copy(connection, copies, have)
            if copies and name == "inventory":
                connection.execute(_RESERVED, {"n": copies})
            # As autovacuum would have left the tables long ago.
            connection.execute("VACUUM ANALYZE")
    now = stored(system)
    return f"{now:,} orders stored: {have:,} real, the rest copies of them ({rows:,} rows in {_since(began)})"


def _copy(connection: psycopg.Connection[Any], copies: int, have: int) -> int:
    given = {"apart": sql.Literal(_APART), "have": sql.Literal(have), "id": sql.Literal(_ID)}
    connection.execute(sql.SQL(_FUNCTIONS).format(**given))
    rows = 0
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind in connection.execute(_TABLES).fetchall():
        if table not in _PASSING:
            tables.setdefault(table, {})[column] = kind
    for table, columns in tables.items():
        with_ids = _with_ids(connection, table, columns)
        if not with_ids:
            continue
        name = sql.Identifier(table)
        connection.execute(sql.SQL("CREATE TEMP TABLE originals AS TABLE {}").format(name))
        statement = sql.SQL(_COPY).format(
            name,
            sql.SQL(", ").join(sql.Identifier(column) for column in columns),
            sql.SQL(", ").join(_copied(column, kind, with_ids) for column, kind in columns.items()),
        )
        rows += max(0, connection.execute(statement, [copies]).rowcount)
        connection.execute("DROP TABLE originals")
    return rows


def _with_ids(connection: psycopg.Connection[Any], table: str, columns: dict[str, str]) -> set[str]:
    """The columns that contain ids, alone or within a text."""
    found = {column for column, kind in columns.items() if kind == "uuid"}
    statement = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} ~ {})")
    for column in [column for column, kind in columns.items() if kind == "text"]:
        asked = statement.format(sql.Identifier(table), sql.Identifier(column), sql.Literal(_ID))
        if connection.execute(asked).fetchall() == [(True,)]:
            found.add(column)
    return found


def _copied(column: str, kind: str, with_ids: set[str]) -> sql.Composable:
    name = sql.Identifier(column)
    if column in with_ids:
        return sql.SQL("pg_temp.copy_of({}, n)").format(name)
    if kind == "timestamp with time zone":
        return sql.SQL("{} - n * make_interval(secs => {})").format(name, sql.Literal(_APART))
    return name


@contextmanager
def _connected(system: System, database: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        with psycopg.connect(system.database(database), autocommit=True) as connection:
            yield connection
    except psycopg.Error as error:
        raise LabProblem(f"the database of {database} can't be filled: {str(error).strip()}") from error


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.0f} s"
