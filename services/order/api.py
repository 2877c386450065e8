"""The order API: place, look, cancel, retry."""

from __future__ import annotations

from typing import Final

import structlog
from flask import Blueprint, request

from orderflow import telemetry
from orderflow.contracts import OrderRetryRequested, name_of
from orderflow.envelope import compose
from orderflow.errors import FieldError, Problem
from orderflow.outbox import Outbox
from orderflow.settings import Settings
from orderflow.trail import LogEntry
from orderflow.web import Answer, body, operation, query
from services.order import coordinator, models
from services.order.domain import Status
from services.order.models import Order
from services.order.placing import Placing
from services.order.reading import Reading, trace_of
from services.order.schemas import (
    Amount,
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

_KEY_LENGTH: Final = 255


def blueprint(settings: Settings, outbox: Outbox, placing: Placing, reading: Reading) -> Blueprint:
    """The views of the order service."""
    api = Blueprint("orders", __name__)

    @api.post("/orders")
    @operation(
        "Places an order",
        body=OrderRequest,
        answers={202: OrderAnswer},
        headers={"Idempotency-Key": "up to 255 characters; the same key and body again give the same order"},
        answer_headers={"Location": "the order", "Idempotent-Replayed": "`true` where the key was known"},
    )
    def place() -> Answer:
        placed = placing.place(body(OrderRequest), _idempotency_key())
        headers = {"Location": f"/orders/{placed.order_id}"}
        if placed.created_at is None:
            answer = reading.order(placed.order_id)
            answer = answer.model_copy(
                update={"status": Status.PLACED, "updated_at": answer.created_at, "reason": None, "customer_id": None}
            )
            return answer, 202, headers | {"Idempotent-Replayed": "true"}
        answer = OrderAnswer(
            id=placed.order_id,
            status=Status.PLACED,
            workflow=placed.workflow,
            event_bus=placed.event_bus,
            total=Amount(amount=placed.total.amount, currency=placed.total.currency),
            **trace_of(placed.traceparent),
            created_at=placed.created_at,
            updated_at=placed.created_at,
        )
        return answer, 202, headers

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
    )
    def cancel(order_id: str) -> Answer:
        reason = body(CancelRequest, optional=True).reason or "cancelled by the customer"
        with outbox.transaction() as unit:
            order = _locked(models.lock(unit.connection, [order_id]), order_id)
            telemetry.about_order(order.id, order.workflow.value, order.traceparent)
            if order.confirmed:
                raise Problem(409, "Order is confirmed", "a confirmed order can't be cancelled")
            envelope = coordinator.request_cancellation(order, reason, settings) if order.open else None
            if envelope:
                unit.stage([envelope])
                models.save(unit.connection, [order])
                entry = LogEntry(order_id, "order", "event", envelope.name, envelope.id, note=reason)
                models.LOG.write(unit.connection, [entry])
        if envelope:
            log.info("cancellation requested", **envelope.about)
        return reading.order(order_id), 202

    @api.post("/orders/<id:order_id>/retry")
    @operation(
        "Goes on with an order that needs attention",
        body=RetryRequest,
        answers={202: OrderAnswer},
        problems=(404, 409),
        access="operator",
    )
    def retry(order_id: str) -> Answer:
        asked = body(RetryRequest)
        with outbox.transaction() as unit:
            order = _locked(models.lock(unit.connection, [order_id]), order_id)
            telemetry.about_order(order.id, order.workflow.value, order.traceparent)
            if not order.attention:
                raise Problem(409, "Nothing to retry", f"the order is {order.status.value}, not NEEDS_ATTENTION")
            order.attention, order.sends, order.next_in = False, 0, 0.0
            order.reason = order.reason if order.cancelling else ""  # that was why it needed attention
            note = f"{asked.by}: {asked.why}"
            message_id = None
            if not coordinator.is_ours(order):
                order.next_in, order.answered = settings.resend_after[0], False
                envelope = compose(
                    OrderRetryRequested(by=asked.by, why=asked.why),
                    source="order",
                    order_id=order.id,
                    workflow=order.workflow,
                    event_bus=order.event_bus,
                    traceparent=order.traceparent,
                )
                unit.stage([envelope])
                message_id = envelope.id
            models.save(unit.connection, [order])
            entry = LogEntry(order_id, "order", "note", name_of(OrderRetryRequested), message_id, note=note)
            models.LOG.write(unit.connection, [entry])
        log.info("operator retries an order", order_id=order_id, by=asked.by, why=asked.why)
        return reading.order(order_id), 202

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


def _locked(orders: dict[str, Order], order_id: str) -> Order:
    if order_id not in orders:
        raise Problem(404, "Unknown order", f"there is no order {order_id}")
    return orders[order_id]


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= _KEY_LENGTH or not key.isprintable():
        wrong = FieldError("/Idempotency-Key", f"1 to {_KEY_LENGTH} printable characters, not {len(key)}")
        raise Problem(422, "Invalid idempotency key", wrong.detail, (wrong,))
    return key
