"""The order service as owner: in choreography it watches the whole order; elsewhere only that its coordinator answers.
A state machine answers nothing but its steps: the orchestrator answers for it, as its guardian watches the executions.

A question without an answer is resent 10, 20 and 40 s after the last progress, and the order is compensated at 60 s
(settings). A compensation is resent every 10 s; after 20 resends the order needs an operator. All times are those of
the database's clock, as of the watermark of the owner's queue. After downtime, resend once before compensating, out of
the budget: nobody could have answered, so the order's clock starts anew. A question that waits behind a backlog is
neither resent nor given up. If the broker refuses for good what another coordinator must hear, the order needs an
operator at once.
"""

from __future__ import annotations

from math import inf
from typing import Final

import structlog

from orderflow.contracts import (
    Message,
    OrderCancellationRequested,
    OrderPlaced,
    OrderSnapshot,
    name_of,
)
from orderflow.database import Database
from orderflow.envelope import Envelope, compose
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.outbox_dead_letters import refused
from orderflow.saga import DEADLINE, STEPS, still_owed
from orderflow.saga.answers import Answers
from orderflow.saga.audit_log import NewRecord
from orderflow.saga.next_action import Action, next_action, resend
from orderflow.saga.retry_budget import FAR, RetryBudget, next_look
from orderflow.settings import Settings
from services.order import due, models
from services.order.aggregate import FORWARD, Order
from services.order.domain import Status

log = structlog.get_logger(__name__)

_ASKED: Final = {status: [service] for status, service in FORWARD.items()} | {
    Status.CANCELLING: [step.service for step in STEPS]
}
"""Who has to answer, in choreography, by the order's status."""

_LIMIT: Final = 100
"""Orders that one transaction looks after."""

_PATIENCE: Final = 60.0
"""Seconds between further reminders to a coordinator that has not answered at all."""

_TRUST: Final = 600.0
"""Seconds without progress after which a coordinator that had answered is reminded all the same: it, or this service,
may have been restored from a backup. All its own times are over by then, except a state machine's slowest
compensation."""


def _has_coordinator(order: Order) -> bool:
    """Whether another coordinator has answered, and has not been silent for too long since."""
    return order.answered and order.waited < _TRUST


def _compensating(order: Order) -> bool:
    """Whether its compensation is resent from here. A state machine resends by itself: it is only reminded."""
    return order.cancelling and not order.runs_by_machine


def first_look(order: Order, settings: Settings) -> float:
    """Seconds from now until its owner looks after the order."""
    return settings.undo_resend_every if _compensating(order) else settings.resend_after[0]


def progressed(order: Order, settings: Settings) -> None:
    """Records progress: the order's times start anew."""
    order.progressed, order.sends = True, 0
    order.next_in = first_look(order, settings)


def request_cancellation(order: Order, reason: str, settings: Settings) -> Envelope | None:
    """Makes an open order cancelling. Returns the message that says so, or None if it was already requested."""
    message = order.request_cancellation(reason)
    if message is None:
        return None
    progressed(order, settings)
    return _compose(order, message, order.cancel_id)


class OrderSweeper:
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
        return due.any_due(self._database)

    def sweep(self, lag: float, resumed: float = inf) -> bool:
        if lag == inf:
            return False
        silent = self._settings.resend_after[0]
        waits = {status.value: self._answers.least_wait(asked, silent) for status, asked in _ASKED.items()}
        with self._outbox.transaction() as unit:
            orders, more = due.due(unit.connection, lag, waits, _LIMIT)
            if not orders:
                return more
            placed = [o.id for o in orders if not (o.cancelling and o.is_ours)]
            snapshots = models.snapshots(unit.connection, placed) if placed else {}
            unheard = [o.id for o in orders if not o.is_ours and not _has_coordinator(o)]
            refusals = refused(unit.connection, unheard) if unheard else {}
            entries: list[NewRecord] = []
            done: list[tuple[str, dict[str, str]]] = []
            odd: dict[str, Exception] = {}
            for order in orders:
                order.waited -= lag
                try:
                    envelope, note = self._look_after(order, snapshots, refusals.get(order.id, ""), lag, resumed - lag)
                    sent = self._with_placed(order, envelope, snapshots) if envelope else []
                    unit.stage(sent)
                except Exception as error:  # noqa: BLE001 - the others must be looked after, whatever it is
                    odd[order.id] = error
                    continue
                if envelope:
                    entries += [_noted(order, e, note) for e in sent]
                    done.append((note, envelope.about))
                elif note:
                    entries.append(NewRecord(order.id, "order", "note", "OrderNeedsAttention", note=note))
                    done.append(("needs an operator", {"order_id": order.id, "reason": note}))
            models.save(unit.connection, [order for order in orders if order.id not in odd], lag)
            models.ASIDE.put(odd, unit.connection.execute)
            models.LOG.write(unit.connection, entries)
        for what, about in done:
            log.warning("no answer in time", action=what, **about)
        return more

    def _with_placed(self, order: Order, envelope: Envelope, snapshots: dict[str, str]) -> list[Envelope]:
        """A coordinator can't cancel an order that it never heard of: OrderPlaced may be the message that got lost."""
        if envelope.name != name_of(OrderCancellationRequested) or order.is_ours:
            return [envelope]
        return [_compose(order, _placed(snapshots[order.id]), order.placed_id, order.sends), envelope]

    def _look_after(
        self, order: Order, snapshots: dict[str, str], refusal: str, lag: float, resumed: float
    ) -> tuple[Envelope | None, str]:
        settings = self._settings
        if order.attention:
            order.next_in = FAR  # an operator must look first
            return None, ""
        if not order.is_ours and _has_coordinator(order):
            order.next_in = _TRUST - order.waited  # the coordinator has it, and watches
            return None, ""
        if refusal:  # its coordinator can't hear of it, so nobody else would end it
            order.attention, order.next_in = True, FAR
            order.reason = order.reason or f"its coordinator can't be told: {refusal}"
            return None, order.reason
        action, compensating = Action.RESEND, _compensating(order)
        if compensating or order.is_ours:
            lost_after = self._answers.least_wait(_ASKED[order.status], settings.undo_after)
            action = next_action(
                order, settings, compensating=compensating, lag=lag, resumed=resumed, lost_after=lost_after
            )
        match action:
            case Action.WAIT:
                order.next_in = settings.resend_after[0]
                return None, ""
            case Action.COMPENSATE:
                order.facts.add(DEADLINE)
                return request_cancellation(order, f"no answer within {settings.undo_after:g} s", settings), "deadline"
            case Action.CALL_OPERATOR:
                order.attention, order.next_in = True, FAR
                order.reason = order.reason or "an undo got no answer"
                steps = ", ".join(step.undo.__name__ for step in still_owed(order.facts))
                return None, f"no answer to {steps} after {order.sends} times"
        first = compensating and not order.sends  # it may be an operator's retry
        if not resend(order, action, self._budget, lambda: self._next_look(order), free=first):
            return None, ""
        if compensating:
            order.facts.add(name_of(OrderCancellationRequested))
            message = OrderCancellationRequested(reason=order.reason)
            return _compose(order, message, order.cancel_id, order.sends), "resent"
        return _compose(order, _placed(snapshots[order.id]), order.placed_id, order.sends), "resent"

    def _next_look(self, order: Order) -> float:
        times = self._settings.resend_after
        if _compensating(order):
            return self._settings.undo_resend_every
        if order.is_ours:
            return next_look(self._settings, order.waited, order.sends)
        if order.sends < len(times) and not order.runs_by_machine:
            return max(times[0], times[order.sends] - order.waited)
        return _PATIENCE


def _noted(order: Order, envelope: Envelope, why: str) -> NewRecord:
    note = "" if envelope.resend else why
    return NewRecord(order.id, "order", "event", envelope.name, envelope.id, note=note, resend=envelope.resend)


def _placed(snapshot: str) -> OrderPlaced:
    return OrderPlaced(order=OrderSnapshot.model_validate_json(snapshot))


def _compose(order: Order, message: Message, message_id: str, resend: int = 0) -> Envelope:
    return compose(
        message,
        source="order",
        order_id=order.id,
        workflow=order.workflow,
        event_bus=order.event_bus,
        message_id=message_id,
        traceparent=order.traceparent,
        resend=resend,
    )
