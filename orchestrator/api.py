"""The orchestrator's API: sagas, each with its audit log."""

from __future__ import annotations

import threading
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from flask import Blueprint
from pydantic import BaseModel, Field

from orchestrator import execution_history
from orchestrator.engine import State, decide
from orchestrator.execution_history import Histories
from orchestrator.store import LOG
from orderflow.contracts import Id, Workflow
from orderflow.database import Database
from orderflow.errors import BrokerUnavailable, Problem
from orderflow.settings import Settings
from orderflow.web import Answer, RequestModel, Time, operation, query


class SagaQuery(RequestModel):
    state: State | None = None
    stuck: bool = False
    """Only sagas that need an operator."""
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Id | None = None


class Waiting(BaseModel):
    step: str
    service: str
    since: Time
    deadline: Time | None


class LogLine(BaseModel):
    """A record of the audit log. `resend`: how often the message had been sent before."""

    at: Time
    service: str
    kind: str
    type: str
    message_id: str | None
    causation_id: str | None
    note: str = ""
    resend: int = 0


class SagaAnswer(BaseModel):
    """`state` and `workflow` can have other values after a rollback, for sagas that a newer release began."""

    order_id: str
    state: State | str
    needs_attention: bool
    workflow: Workflow | str
    version: int
    facts: list[str]
    reason: str | None
    waiting_for: list[Waiting] | None
    created_at: Time
    updated_at: Time
    log: list[LogLine] = []


class SagaPage(BaseModel):
    items: list[SagaAnswer]
    next_cursor: str | None


_COLUMNS: Final = """order_id::text, state, attention, workflow, version, facts, reason, open_type, active, progress_at,
    created_at, updated_at"""


def blueprint(settings: Settings, database: Database, histories: Histories | None = None) -> Blueprint:
    """The orchestrator's routes. `histories` gives the histories of the state machine's executions."""
    api = Blueprint("sagas", __name__)
    asking = threading.Semaphore(max(1, settings.web_threads // 2))
    """Limits how many threads wait for Step Functions at the same time."""

    def _summary(histories: Histories, order_id: str) -> execution_history.ExecutionSummary | None:
        if not asking.acquire(blocking=False):
            raise BrokerUnavailable("too many requests wait for Step Functions already")
        try:
            return execution_history.of_order(database, histories, order_id)
        finally:
            asking.release()

    @api.get("/sagas")
    @operation("Lists sagas, newest first", query=SagaQuery, answers={200: SagaPage})
    def list_sagas() -> Answer:
        asked = query(SagaQuery)
        conditions = ["attention"] if asked.stuck else []
        if asked.state:
            # A range, because with `=` the planner would scan all sagas by id for a state that most of them have.
            conditions.append("state BETWEEN %(state)s AND %(state)s")
        if asked.cursor:
            conditions.append("order_id < %(cursor)s")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        order = "sagas.state DESC, " if asked.state else ""
        rows = database.query(
            # Sort by the table's column: a plain `order_id` is the output column, a text that no index can sort by.
            f"SELECT {_COLUMNS} FROM sagas {where} ORDER BY {order}sagas.order_id DESC LIMIT %(limit)s",  # noqa: S608
            {"state": asked.state and asked.state.value, "cursor": asked.cursor, "limit": asked.limit + 1},
        )
        items = [_answer(settings, row) for row in rows[: asked.limit]]
        return SagaPage(items=items, next_cursor=items[-1].order_id if len(rows) > asked.limit else None)

    @api.get("/sagas/<id:order_id>")
    @operation("One saga with its audit trail", answers={200: SagaAnswer}, problems=(404,))
    def show(order_id: str) -> Answer:
        rows = database.query(f"SELECT {_COLUMNS} FROM sagas WHERE order_id = %s", [order_id])  # noqa: S608
        if not rows and histories and (summary := _summary(histories, order_id)):
            return _of_execution(order_id, summary, _log(database, order_id, summary.created_at))
        if not rows:
            raise Problem(404, "Unknown saga", f"there is no saga for order {order_id}")
        saga = _answer(settings, rows[0])
        return saga.model_copy(update={"log": _log(database, order_id, saga.created_at)})

    return api


def _log(database: Database, order_id: str, since: datetime) -> list[LogLine]:
    return [LogLine(**asdict(line)) for line in LOG.read(database, order_id, since)]


def _of_execution(order_id: str, summary: execution_history.ExecutionSummary, log: list[LogLine]) -> SagaAnswer:
    """An order that a state machine runs, in the shape of a saga."""
    waiting = summary.waiting and [Waiting(**asdict(summary.waiting))]
    lines = [LogLine(**asdict(line)) for line in summary.lines] + log
    return SagaAnswer(
        order_id=order_id,
        state=summary.state,
        needs_attention=summary.needs_attention,
        workflow=Workflow.STEP_FUNCTIONS,
        version=summary.version,
        facts=sorted(summary.facts),
        reason=summary.reason or None,
        waiting_for=waiting,
        created_at=summary.created_at,
        updated_at=summary.updated_at,
        log=sorted(lines, key=lambda line: line.at),
    )


def _answer(settings: Settings, row: Any) -> SagaAnswer:
    order_id, state, attention, workflow, version, facts, reason, open_type, active, progress_at, created, updated = row
    waiting = None
    if active and not attention and open_type:
        patience = (
            settings.undo_after if state == State.RUNNING else settings.undo_resend_every * settings.undo_attempts
        )
        try:
            service = decide(Workflow(workflow), facts).service
        except (ValueError, KeyError):
            service = "unknown"  # the workflow is one of a newer release
        deadline = progress_at + timedelta(seconds=patience)
        waiting = [Waiting(step=open_type, service=service, since=progress_at, deadline=deadline)]
    return SagaAnswer(
        order_id=order_id,
        state=state,
        needs_attention=attention,
        workflow=workflow,
        version=version,
        facts=sorted(facts),
        reason=reason or None,
        waiting_for=waiting,
        created_at=created,
        updated_at=updated,
    )
