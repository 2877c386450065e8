"""The order API: places, shows, cancels and retries orders."""

from __future__ import annotations

from contextlib import nullcontext

import structlog
from flask import Blueprint, Response, request

from orderflow import telemetry
from orderflow.database import Connection
from orderflow.errors import Problem
from orderflow.messaging.outbox import Outbox, UnitOfWork
from orderflow.saga.audit_log import NewRecord
from orderflow.settings import Settings
from orderflow.web import Answer, body, once, operation, query
from orderflow.web.idempotency import HEADER, key_of, replayed, turns
from services.order import coordinator, models, retrying
from services.order.aggregate import Order
from services.order.placement import Placing
from services.order.queries import Reading
from services.order.schemas import (
    Amount,
    BulkRetryAnswer,
    BulkRetryRequest,
    CancelRequest,
    OrderAnswer,
    OrderPage,
    OrderQuery,
    OrderRequest,
    ProductAnswer,
    ProductPage,
    RetryRequest,
    Timeline,
)

log = structlog.get_logger(__name__)


def blueprint(settings: Settings, outbox: Outbox, placing: Placing, reading: Reading) -> Blueprint:
    """The views of the order service."""
    api = Blueprint("orders", __name__)

    @api.post("/orders")
    @operation(
        "Places an order",
        body=OrderRequest,
        answers={202: OrderAnswer},
        answer_headers={"Location": "the order"},
        idempotent="key",
    )
    def place() -> Answer:
        asked = body(OrderRequest)
        key = key_of(asked)
        with turns().take(key) if key else nullcontext():
            placed = placing.place(asked, key, request.headers.get(HEADER, ""))
        if placed.replayed:
            return replayed(placed.reply)
        return Response(placed.reply.body, placed.reply.status, placed.reply.headers, content_type="application/json")

    @api.get("/orders")
    @operation("Lists orders, newest first", query=OrderQuery, answers={200: OrderPage})
    def list_orders() -> Answer:
        return reading.page(query(OrderQuery))

    @api.get("/orders/<id:order_id>")
    @operation("One order", answers={200: OrderAnswer}, problems=(404,))
    def show(order_id: str) -> Answer:
        return reading.order(order_id)

    @api.get("/orders/<id:order_id>/timeline")
    @operation("What happened to an order, and what it waits for", answers={200: Timeline}, problems=(404,))
    def timeline(order_id: str) -> Answer:
        return reading.timeline(order_id)

    @api.post("/orders/<id:order_id>/cancel")
    @operation(
        "Cancels an order that is not confirmed",
        body=CancelRequest,
        body_optional=True,
        answers={202: OrderAnswer},
        problems=(404, 409),
        idempotent="itself",  # an order that is cancelling or cancelled already: 202 with its current state
    )
    def cancel(order_id: str) -> Answer:
        reason = body(CancelRequest, optional=True).reason or "cancelled by the customer"
        with outbox.transaction() as unit:
            order = _locked(unit.connection, order_id)
            if order.confirmed:
                raise Problem(409, "Order is confirmed", "a confirmed order can't be cancelled")
            envelope = coordinator.request_cancellation(order, reason, settings) if order.open else None
            if envelope:
                unit.stage([envelope])
                models.save(unit.connection, [order])
                entry = NewRecord(order_id, "order", "event", envelope.name, envelope.id, note=reason)
                models.LOG.write(unit.connection, [entry])
            # Read in the transaction: a read that fails after the commit would look like a failed cancellation.
            answer = reading.changed(unit.connection, order_id)
        if envelope:
            log.info("cancellation requested", **envelope.about)
        return answer, 202

    @api.post("/orders/<id:order_id>/retry")
    @operation(
        "Resumes an order that needs attention",
        body=RetryRequest,
        answers={202: OrderAnswer},
        problems=(404, 409),
        access="operator",
        idempotent="key",  # a repeat finds nothing to retry (409), or retries what has failed again since
    )
    def retry(order_id: str) -> Answer:
        asked = body(RetryRequest)

        def continue_with(unit: UnitOfWork) -> Answer:
            order = _locked(unit.connection, order_id)
            if not order.attention:
                raise Problem(409, "Nothing to retry", f"the order is {order.status.value}, not NEEDS_ATTENTION")
            retrying.retry(unit, [order], asked, settings)
            return reading.changed(unit.connection, order_id), 202

        answer = once(outbox, asked, continue_with)
        log.info("operator retries an order", order_id=order_id, by=asked.by, why=asked.why)
        return answer

    @api.post("/orders/retry")
    @operation(
        "Resumes all orders that need attention, some at a time",
        body=BulkRetryRequest,
        answers={202: BulkRetryAnswer},
        access="operator",
        idempotent="key",
    )
    def retry_all() -> Answer:
        asked = body(BulkRetryRequest)
        answer = once(outbox, asked, lambda unit: (retrying.retry_all(unit, asked, settings), 202))
        log.info("operator retries orders", by=asked.by, why=asked.why, answer=answer.get_json())
        return answer

    @api.get("/products")
    @operation("What is for sale", answers={200: ProductPage})
    def products() -> Answer:
        return ProductPage(
            items=[
                ProductAnswer(sku=p.sku, name=p.name, price=Amount(amount=p.amount, currency=p.currency))
                for p in placing.products().values()
            ]
        )

    return api


def _locked(connection: Connection, order_id: str) -> Order:
    found = models.read(models.lock(connection, [order_id]), [order_id])
    if order_id not in found:
        raise Problem(404, "Unknown order", f"there is no order {order_id}")
    order = found[order_id]
    telemetry.about_order(order.id, order.workflow.value, order.traceparent)
    return order
