"""The orchestrator as owner: open questions are resent, compensated at their deadline, and given to an operator in
the end.

The rules are those of the order service's coordinator (`orderflow.saga.next_action`): times are those of the database's
clock, as of the watermark of the queue; after downtime each question is resent once and its clock starts anew; a
question that waits behind a backlog is left alone.
"""

from __future__ import annotations

from math import inf
from typing import Final

import structlog

from orchestrator import engine, store
from orchestrator.engine import State
from orchestrator.store import Saga
from orchestrator.transitions import advance
from orderflow.contracts import MESSAGES, Message, OrderNeedsAttention, kind_of
from orderflow.database import Database
from orderflow.envelope import Envelope, compose
from orderflow.messaging.outbox import Outbox
from orderflow.saga import DEADLINE
from orderflow.saga.answers import Answers
from orderflow.saga.audit_log import NewRecord
from orderflow.saga.next_action import Action, next_action, resend
from orderflow.saga.retry_budget import FAR, RetryBudget, next_look
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

_LIMIT: Final = 100
"""Sagas that one transaction looks after."""


class SagaSweeper:
    """See `orderflow.service.Sweeper`."""

    def __init__(
        self, database: Database, outbox: Outbox, settings: Settings, budget: RetryBudget, answers: Answers
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._settings = settings
        self._budget = budget
        self._answers = answers

    def waits(self) -> bool:
        return store.any_due(self._database)

    def sweep(self, lag: float, resumed: float = inf) -> bool:
        if lag == inf:
            return False
        silent = self._settings.resend_after[0]
        waits = {asked: self._answers.least_wait([service], silent) for asked, service in engine.ASKED.items()}
        with self._outbox.transaction() as unit:
            sagas, more = store.due(unit.connection, lag, waits, _LIMIT)
            entries: list[NewRecord] = []
            done: list[tuple[str, dict[str, str]]] = []
            odd: dict[str, Exception] = {}
            for saga in sagas:
                saga.waited -= lag
                try:
                    envelope, note = self._look_after(saga, lag, resumed - lag)
                    unit.stage([envelope] if envelope else [])
                except Exception as error:  # noqa: BLE001 - a step that newer code has begun, say
                    odd[saga.order_id] = error
                    continue
                if envelope:
                    entries.append(_noted(saga, envelope, note))
                    done.append((note, envelope.about))
            store.save(unit.connection, [saga for saga in sagas if saga.order_id not in odd], lag)
            store.ASIDE.put(odd, unit.connection.execute)
            store.LOG.write(unit.connection, entries)
        for what, about in done:
            log.warning("no answer in time", action=what, **about)
        return more

    def _look_after(self, saga: Saga, lag: float, resumed: float) -> tuple[Envelope | None, str]:
        settings = self._settings
        saga.version += 1
        asked = [service] if (service := engine.ASKED.get(saga.open_type or "")) else []
        compensating = saga.state is State.COMPENSATING
        lost_after = self._answers.least_wait(asked, settings.undo_after)
        action = next_action(saga, settings, compensating=compensating, lag=lag, resumed=resumed, lost_after=lost_after)
        match action:
            case Action.WAIT:
                saga.next_in = settings.resend_after[0]
                return None, ""
            case Action.COMPENSATE:
                saga.facts.add(DEADLINE)
                saga.reason = saga.reason or f"no answer to {saga.open_type} within {settings.undo_after:g} s"
                return self._advance(saga, "deadline")
            case Action.CALL_OPERATOR:
                saga.attention, saga.next_in = True, FAR
                reason = f"no answer to {saga.open_type} after {saga.sends + 1} times"
                saga.reason = saga.reason or reason
                return _compose(saga, OrderNeedsAttention(reason=reason), 0, own_id=False), reason
        assert saga.open_type is not None
        if compensating and engine.decide(saga.workflow, saga.facts).send is not MESSAGES[saga.open_type]:
            # The steps have changed since the question was sent. On the way forward its outcome must be known first.
            return self._advance(saga, "the steps have changed")
        if not resend(saga, action, self._budget, lambda: self._next_look(saga)):
            return None, ""
        message = engine.message_for(MESSAGES[saga.open_type], saga.snapshot, saga.facts, saga.reason)
        return _compose(saga, message, saga.sends), "resent"

    def _advance(self, saga: Saga, why: str) -> tuple[Envelope | None, str]:
        message = advance(saga, self._settings)
        return (_compose(saga, message, 0), why) if message else (None, "")

    def _next_look(self, saga: Saga) -> float:
        if saga.state is State.COMPENSATING:
            return self._settings.undo_resend_every
        return next_look(self._settings, saga.waited, saga.sends)


def _noted(saga: Saga, envelope: Envelope, why: str) -> NewRecord:
    note, kind = "" if envelope.resend else why, kind_of(envelope.name)
    return NewRecord(saga.order_id, "orchestrator", kind, envelope.name, envelope.id, note=note, resend=envelope.resend)


def _compose(saga: Saga, message: Message, resend: int, *, own_id: bool = True) -> Envelope:
    return compose(
        message,
        source="orchestrator",
        order_id=saga.order_id,
        workflow=saga.workflow,
        event_bus=saga.event_bus,
        message_id=saga.open_id if own_id else None,
        traceparent=saga.traceparent,
        resend=resend,
    )
