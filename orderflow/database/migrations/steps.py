"""Steps of revisions that must not stop a service at work: no lock is waited for behind a long reader, no big table is
rewritten, or scanned under an exclusive lock, and each step is skipped where it was done already. A revision whose lock
timed out is run again from its beginning (`orderflow.database.migrate`).

Revisions call them and the kernel's SQL beside them (`frozen/`, one file per step of the kernel's tables, which the
services' revisions apply in turn) long after they were written: what either gives must never change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from alembic import op

_FROZEN: Final = Path(__file__).parent / "frozen"

_AHEAD: Final = "14 days"
"""What the first partition takes beyond now. Until the table is partitioned, later rows are refused: that long may a
migration wait for a lock, or be given up half-way by a rollback, before its constraint must be dropped by hand."""

_INDEXES: Final = """
SELECT c.relname, pg_get_indexdef(i.indexrelid), i.indisprimary FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = '{table}'::regclass
"""
_BOUND: Final = """
SELECT substring(pg_get_constraintdef(oid) FROM '''([^'']+)''') FROM pg_constraint
WHERE conrelid = '{table}'::regclass AND conname = '{table}_before' AND convalidated
"""
# The lowest UUIDv7 of a time; a time as PostgreSQL reads it back in any time zone.
_FIRST_ID: Final = "(lpad(to_hex((extract(epoch FROM {at}) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid::text"
_TIME: Final = "({at})::text"


def frozen(step: str, *, table: str = "") -> str:
    """The kernel's SQL of this name; `table` is the service's own name for its log, intents or business table."""
    return (_FROZEN / f"{step}.sql").read_text("utf-8").replace("{table}", table)


def apply(step: str, *, table: str = "") -> None:
    """Runs `frozen` SQL in the revision's transaction."""
    _run(frozen(step, table=table))


def index(name: str, definition: str) -> None:
    """`CREATE INDEX CONCURRENTLY name definition`. What a build that failed has left is dropped and built again.

    It waits for all older transactions, but nobody waits for it: so its locks have no time limit."""
    with op.get_context().autocommit_block(), _unlimited():
        if _one(f"SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{name}')"):  # noqa: S608
            _run(f"DROP INDEX CONCURRENTLY {name}")
        _run(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} {definition}")


def partition(
    table: str, key: str, *, by_id: bool, storage: str = "", drop: tuple[str, ...] = (), then: str = ""
) -> None:
    """Makes `table` partitioned by ranges of `key` (a UUIDv7 where `by_id`, else a time), with a DEFAULT partition.

    Its rows stay where they are: it becomes the first partition, `{table}_before`, or is dropped where it is empty.
    Rows that are later than that partition takes (ids of another version, wrong clocks) move to DEFAULT; between that
    and the swap, while the table is scanned, nobody sees them. `storage`: parameters of DEFAULT. `drop`: indexes that
    the partitioned table is not to have. `then` is run in the same transaction."""
    with op.get_context().autocommit_block():
        if not is_partitioned(table):
            default = f" WITH ({storage})" if storage else ""
            has_rows = _one(f"SELECT EXISTS (SELECT FROM {table})")  # noqa: S608
            bound = _bound(table, key, by_id, default) if has_rows else None
            swap = _swap(table, key, bound, default, drop)
            _atomically(*swap, *([then] if then else ()))


def is_partitioned(table: str) -> bool:
    """Whether `partition` has been here."""
    return bool(_one(f"SELECT relkind = 'p' FROM pg_class WHERE oid = '{table}'::regclass"))  # noqa: S608


def _bound(table: str, key: str, by_id: bool, storage: str) -> str:
    """Where the table's partition ends. A valid constraint says it too: with that, ATTACH needs no scan."""
    if known := _one(_BOUND.format(table=table)):
        return str(known)
    until = f"date_trunc('day', now(), 'UTC') + interval '{_AHEAD}'"
    bound = str(_one(f"SELECT {(_FIRST_ID if by_id else _TIME).format(at=until)}"))
    _atomically(
        f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {table}_before",
        f"ALTER TABLE {table} ADD CONSTRAINT {table}_before CHECK ({key} < '{bound}') NOT VALID",
    )
    if _one(f"SELECT EXISTS (SELECT FROM {table} WHERE {key} >= '{bound}')"):  # noqa: S608
        _atomically(
            # Its indexes come with ATTACH: not all of this table's are the partitioned one's.
            f"""CREATE TABLE IF NOT EXISTS {table}_default
                (LIKE {table} INCLUDING ALL EXCLUDING IDENTITY EXCLUDING INDEXES){storage}""",
            f"ALTER TABLE {table}_default DROP CONSTRAINT IF EXISTS {table}_before",
            f"""WITH later AS (DELETE FROM {table} WHERE {key} >= '{bound}' RETURNING *)
                INSERT INTO {table}_default SELECT * FROM later""",  # noqa: S608
        )
    _run(f"ALTER TABLE {table} VALIDATE CONSTRAINT {table}_before")
    return bound


def _swap(table: str, key: str, bound: str | None, storage: str, drop: tuple[str, ...]) -> Iterator[str]:
    """The statements that put a partitioned table in the place of a plain one: its rows are below `bound`, or none."""
    indexes = op.get_bind().exec_driver_sql(_INDEXES.format(table=table)).fetchall()
    identity = _one(f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attidentity <> ''")  # noqa: S608
    before = f"{table}_before"
    yield f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"
    if bound is None:
        yield f"""DO $$ BEGIN IF EXISTS (SELECT FROM {table}) THEN
            RAISE '{table} has got its first rows meanwhile' USING ERRCODE = 'lock_not_available'; END IF; END $$"""
    yield f"ALTER TABLE {table} RENAME TO {before}"
    for name, _, _ in indexes:
        yield f"ALTER INDEX {name} RENAME TO {name}_before"
    yield f"CREATE TABLE {table} (LIKE {before} INCLUDING ALL EXCLUDING INDEXES) PARTITION BY RANGE ({key})"
    yield f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {before}"
    for name, definition, primary in indexes:
        if name in drop:
            continue
        if primary:
            yield f"ALTER TABLE {table} ADD CONSTRAINT {name} PRIMARY KEY {definition[definition.index('(') :]}"
        else:
            yield re.sub(r" ON (ONLY )?\S+ USING ", f" ON {table} USING ", definition, count=1)
    yield f"CREATE TABLE IF NOT EXISTS {table}_default (LIKE {table} INCLUDING ALL EXCLUDING IDENTITY){storage}"
    yield f"ALTER TABLE {table} ATTACH PARTITION {table}_default DEFAULT"
    if bound is None:
        yield f"DROP TABLE {before}"
        return
    if identity:
        sequence = "pg_get_serial_sequence('{0}', '{1}')"
        old, new = sequence.format(before, identity), sequence.format(table, identity)
        yield f"SELECT setval({new}, nextval({old}))"
        yield f"ALTER TABLE {before} ALTER COLUMN {identity} DROP IDENTITY"
    yield f"ALTER TABLE {table} ATTACH PARTITION {before} FOR VALUES FROM (MINVALUE) TO ('{bound}')"
    yield f"ALTER TABLE {before} DROP CONSTRAINT {before}"


def _atomically(*statements: str) -> None:
    """All of them or none, where else every statement commits by itself."""
    _run("BEGIN")
    try:
        for statement in statements:
            _run(statement)
    except Exception:
        _run("ROLLBACK")
        raise
    _run("COMMIT")


@contextmanager
def _unlimited() -> Iterator[None]:
    limit = _one("SHOW lock_timeout")
    _run("SET lock_timeout = 0")
    yield
    _run(f"SET lock_timeout = '{limit}'")  # after a failure the connection is given up


def _run(statement: str) -> None:
    # Not op.execute: that takes what follows a colon for a parameter.
    op.get_bind().exec_driver_sql(statement)


def _one(statement: str) -> Any:
    row = op.get_bind().exec_driver_sql(statement).fetchone()
    return row[0] if row else None
