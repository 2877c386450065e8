"""Finds the orders that need an operator, by the filter of a bulk retry."""

from __future__ import annotations

from typing import Any, Protocol

from orderflow.contracts import Workflow
from orderflow.database import Connection


class Wanted(Protocol):
    """A filter; see `schemas.BulkRetryRequest`."""

    @property
    def workflow(self) -> Workflow | None: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def older_than(self) -> float | None: ...
    @property
    def cursor(self) -> str | None: ...


def find(connection: Connection, wanted: Wanted, limit: int) -> list[str]:
    """The ids of orders that need attention, oldest first, after the cursor."""
    where, parameters = _filter(wanted)
    statement = f"SELECT id::text FROM orders WHERE {where} ORDER BY orders.id LIMIT %(limit)s".encode()  # noqa: S608
    return [row[0] for row in connection.execute(statement, parameters | {"limit": limit})]


def count(connection: Connection, wanted: Wanted) -> int:
    """The number of orders that need attention after the cursor."""
    where, parameters = _filter(wanted)
    [(found,)] = connection.execute(f"SELECT count(*) FROM orders WHERE {where}".encode(), parameters)  # noqa: S608
    return int(found)


def _filter(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    conditions = ["open", "attention"]
    if wanted.workflow is not None:
        conditions.append("workflow = %(workflow)s")
    if wanted.reason is not None:
        conditions.append("strpos(lower(reason), lower(%(reason)s)) > 0")
    if wanted.older_than is not None:
        conditions.append("updated_at <= now() - make_interval(secs => %(older_than)s)")
    if wanted.cursor is not None:
        conditions.append("id > %(cursor)s::uuid")
    return " AND ".join(conditions), {
        "workflow": wanted.workflow and wanted.workflow.value,
        "reason": wanted.reason,
        "older_than": wanted.older_than,
        "cursor": wanted.cursor,
    }
