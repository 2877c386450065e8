"""Connections whose settings hold in each of their transactions, even through a pooler.

PostgreSQL takes a session's settings when the session begins (`options`). RDS Proxy and PgBouncer refuse them, and a
PgBouncer that is configured to ignore them drops them. A transaction pooler gives each transaction another session,
which does not know statements that were prepared in the last one. So behind a pooler nothing is prepared, and each
transaction begins by setting what it lacks: nothing, if the role or the database has them (ALTER ROLE … SET).

https://www.pgbouncer.org/features.html (what each pooling mode supports),
https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/rds-proxy-pinning.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo
from psycopg.rows import TupleRow

_DIRECT: Final = "orderflow.direct"
"""A setting that only this class makes, when a session begins: if it is missing, there is a pooler in between."""


class Session(psycopg.Connection[TupleRow]):
    """A connection with the given `settings`: by name, with values as `SHOW` displays them."""

    opening: bytes | None = None
    """The statement that begins each transaction, instead of session settings."""

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Takes `settings` in addition to psycopg's arguments. Keeps the URL's options. Raises OperationalError."""
        settings: Mapping[str, str] = kwargs.pop("settings")
        options = conninfo_to_dict(conninfo).get("options") or _default("options")
        for name, value in {_DIRECT: "yes", **settings}.items():
            options = f"{options} -c {name}={value}"
        try:
            made = super().connect(conninfo, options=options, **kwargs)
        except psycopg.OperationalError as error:
            if "options" not in str(error):
                raise
            made = super().connect(conninfo, **kwargs)
        try:
            made._look(settings)
        except BaseException:
            made.close()
            raise
        return made

    def _look(self, settings: Mapping[str, str]) -> None:
        """Finds out whether there is a pooler, and if so, which settings the session lacks."""
        names = [_DIRECT, *settings]
        query = sql.SQL("SELECT {}").format(
            sql.SQL(", ").join(sql.SQL("current_setting({}, true)").format(n) for n in names)
        )
        direct, *found = self.execute(query, prepare=False).fetchall()[0]
        self.rollback()
        if direct:
            return
        self.prepare_threshold = None
        missing = [(name, value) for (name, value), now in zip(settings.items(), found, strict=True) if value != now]
        if missing:
            calls = [sql.SQL("set_config({}, {}, true)").format(name, value) for name, value in missing]
            self.opening = sql.SQL("SELECT {}").format(sql.SQL(", ").join(calls)).as_bytes(self)

    def begin(self) -> None:
        """Begins a transaction on an autocommit connection."""
        self.execute(b"BEGIN")
        if self.opening:
            self.execute(self.opening)

    def rows(self, statement: str, parameters: Any = None) -> list[TupleRow]:
        """The rows of one statement, in a transaction of its own."""
        if not self.opening:
            return _rows(self.execute(statement.encode(), parameters))
        with self.pipeline():
            self.begin()
            cursor = self.execute(statement.encode(), parameters)
            self.execute(b"COMMIT")
        return _rows(cursor)


def _default(keyword: str) -> str:
    """libpq's default for what a URL doesn't specify, from PG* variables among others."""
    [value] = [option.val for option in Conninfo.get_defaults() if option.keyword == keyword.encode()]
    return (value or b"").decode()


def _rows(cursor: psycopg.Cursor[TupleRow]) -> list[TupleRow]:
    return cursor.fetchall() if cursor.description else []
