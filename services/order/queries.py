"""Reads orders and timelines. A timeline merges the log of this service with the log of the order's coordinator."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

import urllib3
from pydantic import BaseModel, ValidationError

from orderflow import telemetry
from orderflow.contracts import Workflow, name_of
from orderflow.database import Connection, Database
from orderflow.errors import Problem
from orderflow.routing import COORDINATOR
from orderflow.saga import STEPS, owed, still_owed
from orderflow.settings import Settings
from services.order import models
from services.order.models import LOG
from services.order.schemas import Amount, OrderAnswer, OrderPage, OrderQuery, Timeline, TimelineEntry, Waiting

_COLUMNS: Final = """id::text, status, workflow, event_bus, amount, currency, traceparent, created_at, updated_at,
    reason, customer_id"""

_ONE: Final = f"SELECT {_COLUMNS} FROM orders WHERE id = %s::uuid"  # noqa: S608

_SILENT: Final = 2.0
"""Seconds for which the orchestrator counts as silent after a request without an answer. Otherwise all threads could
wait for an orchestrator that hangs."""


class SagaView(BaseModel):
    """The part of the orchestrator's answer (`GET /sagas/{order_id}`) that a timeline needs."""

    log: list[TimelineEntry]
    waiting_for: list[Waiting] | None


class Reading:
    """Answers questions about orders for one process."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(total=1.0), retries=False, maxsize=4)
        self._silent_until = 0.0
        """Until then (monotonic seconds) the orchestrator counts as silent, and only one request at a time asks it."""
        self._probe = threading.Lock()

    def order(self, order_id: str) -> OrderAnswer:
        """One order. Raises Problem 404."""
        rows = self._database.query(_ONE, [order_id])
        if not rows:
            raise Problem(404, "Unknown order", f"there is no order {order_id}")
        return _answer(rows[0])

    def changed(self, connection: Connection, order_id: str) -> OrderAnswer:
        """One order as this transaction leaves it."""
        [row] = connection.execute(_ONE.encode(), [order_id]).fetchall()
        return _answer(row)

    def page(self, asked: OrderQuery) -> OrderPage:
        """Newest first; the cursor is the last id seen."""
        # The first filter that is given leads: the index on that column and `id` finds the page in the right order. It
        # is a range because with `=`, for a value that most orders have, the planner would scan all orders by id, past
        # hundreds of thousands of open ones.
        wanted: dict[str, Any] = {
            "customer_id": asked.customer_id,
            "status": asked.status and asked.status.value,
            "workflow": asked.workflow and asked.workflow.value,
        }
        lead, *others = [name for name, value in wanted.items() if value is not None] or ["id"]
        conditions = [f"{name} = %({name})s" for name in others]
        if lead != "id":
            conditions.append(f"{lead} BETWEEN %({lead})s AND %({lead})s")
        if asked.stuck:
            conditions += ["open", models.STUCK]
        if asked.cursor:
            conditions.append("id < %(cursor)s")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = self._database.query(
            # Sort by the table's columns: a plain `id` is the output column, a text that no index can sort by.
            f"""SELECT {_COLUMNS} FROM orders {where}
                ORDER BY orders.{lead} DESC, orders.id DESC LIMIT %(limit)s""",  # noqa: S608
            wanted | models.patience(self._settings) | {"cursor": asked.cursor, "limit": asked.limit + 1},
        )
        items = [_answer(row) for row in rows[: asked.limit]]
        return OrderPage(items=items, next_cursor=items[-1].id if len(rows) > asked.limit else None)

    def timeline(self, order_id: str) -> Timeline:
        """Everything that is known about an order, oldest first, and what it waits for. Raises Problem 404."""
        order = self._database.query(
            "SELECT workflow, facts, open, attention, progress_at, created_at FROM orders WHERE id = %s", [order_id]
        )
        if not order:
            raise Problem(404, "Unknown order", f"there is no order {order_id}")
        workflow, facts, is_open, attention, progress_at, created_at = order[0]
        own = [TimelineEntry(**asdict(line)) for line in LOG.read(self._database, order_id, created_at)]
        if coordinator_of(workflow) == "order":
            waiting = None if not is_open or attention else self._waiting(facts, progress_at)
            return Timeline(entries=own, waiting_for=waiting)
        saga = self._saga(order_id)
        if saga is None:
            return Timeline(entries=own, waiting_for=None, incomplete=["orchestrator"])
        return Timeline(entries=_merge(own, saga.log), waiting_for=saga.waiting_for if is_open else None)

    def _waiting(self, facts: list[str], since: datetime) -> list[Waiting]:
        settings = self._settings
        if owed(facts) is not None:
            ends = since + timedelta(seconds=settings.undo_resend_every * settings.undo_attempts)
            return [
                Waiting(step=name_of(s.undo), service=s.service, since=since, deadline=ends)
                for s in reversed(still_owed(facts))
            ]
        ends = since + timedelta(seconds=settings.undo_after)
        for step in STEPS:
            if name_of(step.success) not in facts:
                return [Waiting(step=name_of(step.command), service=step.service, since=since, deadline=ends)]
        return [Waiting(step="ConfirmOrder", service="order", since=since, deadline=ends)]

    def _saga(self, order_id: str) -> SagaView | None:
        """What the orchestrator knows, or None if it does not answer. It may not know a new order yet."""
        url = self._settings.orchestrator_url
        silent = time.monotonic() < self._silent_until
        if not url or (silent and not self._probe.acquire(blocking=False)):
            return None
        try:
            found = self._ask(f"{url}/sagas/{order_id}")
        finally:
            if silent:
                self._probe.release()
        self._silent_until = time.monotonic() + _SILENT if found is None else 0.0
        return found

    def _ask(self, url: str) -> SagaView | None:
        headers = {}
        if self._settings.orderflow_operator_keys:
            headers["Authorization"] = f"Bearer {self._settings.orderflow_operator_keys[0].get_secret_value()}"
        try:
            answer = self._http.request("GET", url, headers=headers)
            if answer.status == 404:
                return SagaView(log=[], waiting_for=None)
            return SagaView.model_validate_json(answer.data) if answer.status == 200 else None
        except (urllib3.exceptions.HTTPError, ValidationError):
            return None


def coordinator_of(workflow: str) -> str | None:
    """The coordinator of a stored order; None if its workflow is one of a newer release."""
    return COORDINATOR.get(Workflow(workflow)) if workflow in set(Workflow) else None


def _merge(own: list[TimelineEntry], other: list[TimelineEntry]) -> list[TimelineEntry]:
    """Both logs as one, oldest first. A message that is in both is taken from the log that recorded it first."""
    first: dict[str, tuple[datetime, int]] = {}
    for number, log in enumerate((own, other)):
        for entry in log:
            if entry.message_id:
                first[entry.message_id] = min(first.get(entry.message_id, (entry.at, number)), (entry.at, number))
    told = [
        entry
        for number, log in enumerate((own, other))
        for entry in log
        if not entry.message_id or first[entry.message_id][1] == number
    ]
    return sorted(told, key=lambda entry: entry.at)


def trace_of(traceparent: str | None) -> dict[str, Any]:
    """The fields of an answer that describe the order's trace."""
    return {
        "trace_id": traceparent.split("-")[1] if traceparent else None,
        "traced": traceparent is not None and telemetry.recorded(traceparent),
    }


def _answer(row: Any) -> OrderAnswer:
    order_id, status, workflow, event_bus, amount, currency, traceparent, created_at, updated_at, reason, customer = row
    return OrderAnswer(
        id=order_id,
        status=status,
        workflow=workflow,
        event_bus=event_bus,
        total=Amount(amount=amount, currency=currency),
        **trace_of(traceparent),
        created_at=created_at,
        updated_at=updated_at,
        reason=reason or None,
        customer_id=customer,
    )
