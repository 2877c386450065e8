"""Retries orders that need attention when an operator asks for it, in every workflow: one order, or all that a filter
names."""

from __future__ import annotations

from collections.abc import Collection

from orderflow.contracts import OrderRetryRequested, name_of
from orderflow.envelope import Envelope, compose
from orderflow.messaging.outbox import UnitOfWork
from orderflow.saga.audit_log import NewRecord
from orderflow.settings import Settings
from orderflow.web import OperatorRequest
from services.order import attention, models
from services.order.aggregate import Order
from services.order.schemas import BulkRetryAnswer, BulkRetryRequest


def retry(unit: UnitOfWork, orders: Collection[Order], asked: OperatorRequest, settings: Settings) -> None:
    """Resumes locked orders that need attention: itself, where this service coordinates them, else by a message to
    their coordinator. Each retry is recorded in the order's timeline."""
    entries = []
    for order in orders:
        order.attention, order.sends, order.next_in = False, 0, 0.0
        order.reason = order.reason if order.cancelling else ""  # else it said why the order needed attention
        message_id = None
        if not order.is_ours:
            order.next_in, order.answered = settings.resend_after[0], False
            envelope = _request(order, asked)
            unit.stage([envelope])
            message_id = envelope.id
        note = f"{asked.by}: {asked.why}"
        entries.append(NewRecord(order.id, "order", "note", name_of(OrderRetryRequested), message_id, note=note))
    models.save(unit.connection, list(orders))
    models.LOG.write(unit.connection, entries)


def retry_all(unit: UnitOfWork, asked: BulkRetryRequest, settings: Settings) -> BulkRetryAnswer:
    """Retries up to `limit` of the orders that the filter names, in the order of their ids. Orders that another
    transaction has locked are left for the next run."""
    ids = attention.find(unit.connection, asked, asked.limit + 1)
    page, more = ids[: asked.limit], len(ids) > asked.limit
    matching = None if asked.cursor else attention.count(unit.connection, asked)
    # A row is read again once it is locked: the order may need no attention any more.
    orders = [order for order in models.lock_free(unit.connection, page) if order.attention]
    if orders:
        retry(unit, orders, asked, settings)
    return BulkRetryAnswer(
        retried=len(orders),
        skipped=len(page) - len(orders),
        matching=matching,
        more=more,
        cursor=page[-1] if page else asked.cursor,
    )


def _request(order: Order, asked: OperatorRequest) -> Envelope:
    return compose(
        OrderRetryRequested(by=asked.by, why=asked.why),
        source="order",
        order_id=order.id,
        workflow=order.workflow,
        event_bus=order.event_bus,
        traceparent=order.traceparent,
    )
