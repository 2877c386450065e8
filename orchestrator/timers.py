"""The orchestrator as owner: what is open is sent again, undone at its deadline, and given to an operator in the end.

The times are those of the order service's coordinator (settings), by the database's clock. A deadline that passed while
this owner was away only makes it ask once more: nobody could have answered it.
"""

from __future__ import annotations

from typing import Final

import structlog

from orchestrator import engine, store
from orchestrator.engine import State
from orchestrator.handlers import advance, kind_of
from orchestrator.store import Saga
from orderflow.contracts import MESSAGES, Message, OrderNeedsAttention
from orderflow.envelope import Envelope, compose
from orderflow.outbox import Outbox
from orderflow.resending import FAR, RetryBudget, next_look, slept
from orderflow.saga import DEADLINE
from orderflow.settings import Settings
from orderflow.trail import LogEntry

log = structlog.get_logger(__name__)

_LIMIT: Final = 100
"""Sagas looked after in one transaction."""


class SagaSweeper:
    """See `orderflow.service.Sweeper`."""

    def __init__(self, outbox: Outbox, settings: Settings, budget: RetryBudget) -> None:
        self._outbox = outbox
        self._settings = settings
        self._budget = budget

    def sweep(self, drained_ago: float) -> bool:
        with self._outbox.transaction() as unit:
            sagas, more = store.due(unit.connection, drained_ago, _LIMIT)
            entries: list[LogEntry] = []
            done: list[tuple[str, dict[str, str]]] = []
            odd: dict[str, Exception] = {}
            for saga in sagas:
                try:
                    envelope, note = self._look_after(saga)
                    unit.stage([envelope] if envelope else [])
                except Exception as error:  # noqa: BLE001 - a step that newer code has begun, say
                    odd[saga.order_id] = error
                    continue
                if envelope:
                    entries.append(
                        LogEntry(
                            saga.order_id, "orchestrator", kind_of(envelope), envelope.name, envelope.id, note=note
                        )
                    )
                    done.append((note, envelope.about))
            store.save(unit.connection, [saga for saga in sagas if saga.order_id not in odd])
            store.ASIDE.put(odd, unit.connection.execute)
            store.LOG.write(unit.connection, entries)
        for what, about in done:
            log.warning("no answer in time", action=what, **about)
        return more

    def _look_after(self, saga: Saga) -> tuple[Envelope | None, str]:
        settings = self._settings
        saga.version += 1
        if saga.state is State.RUNNING and saga.waited >= settings.undo_after and not slept(settings, saga.overdue):
            saga.facts.add(DEADLINE)
            saga.reason = saga.reason or f"no answer to {saga.open_type} within {settings.undo_after:g} s"
            message = advance(saga, settings)
            return (_compose(saga, message, 0), "deadline") if message else (None, "")
        if saga.state is State.COMPENSATING and saga.sends >= settings.undo_attempts:
            saga.attention, saga.next_in = True, FAR
            reason = f"no answer to {saga.open_type} after {saga.sends + 1} times"
            saga.reason = saga.reason or reason
            return _compose(saga, OrderNeedsAttention(reason=reason), 0, own_id=False), reason
        assert saga.open_type is not None
        decided = engine.decide(saga.workflow, saga.facts).send
        if saga.state is State.COMPENSATING and decided is not MESSAGES[saga.open_type]:
            # The steps have changed since it was sent. Not on the way forward: there its outcome must be known first.
            message = advance(saga, settings)
            return (_compose(saga, message, 0), "the steps have changed") if message else (None, "")
        if not slept(settings, saga.overdue) and not self._budget.take():
            saga.next_in = self._next_look(saga)
            return None, ""
        saga.sends += 1
        saga.next_in = self._next_look(saga)
        message = engine.message_for(MESSAGES[saga.open_type], saga.snapshot, saga.facts, saga.reason)
        return _compose(saga, message, saga.sends), f"sent again, time {saga.sends}"

    def _next_look(self, saga: Saga) -> float:
        if saga.state is State.COMPENSATING:
            return self._settings.undo_resend_every
        if slept(self._settings, saga.overdue):
            return self._settings.resend_after[0]
        return next_look(self._settings, saga.waited, saga.sends)


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
