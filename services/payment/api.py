"""Payment over HTTP."""

from __future__ import annotations

from typing import Literal

from flask import Blueprint
from pydantic import BaseModel

from orderflow.contracts import Money
from orderflow.service import Service
from orderflow.web import Answer, Time, not_found, operation
from services.payment.handlers import Payment


class PaymentAnswer(BaseModel):
    """`payment_id` is the provider's id, `refunded` the amount that was refunded. A payment method is never shown."""

    order_id: str
    state: Literal["intended", "done", "refused", "undoing", "undone"] | str
    """A newer release may have more states."""
    amount: Money | None
    refunded: Money | None
    payment_id: str | None
    reason: str
    created_at: Time
    updated_at: Time


def blueprint(service: Service) -> Blueprint:
    """Payment's own routes."""
    api = Blueprint("payment", __name__)
    application = service.application
    assert isinstance(application, Payment)

    @api.get("/payments/<id:order_id>")
    @operation("The payment of an order", answers={200: PaymentAnswer}, problems=(404,))
    def payment(order_id: str) -> Answer:
        row = application.intents.find(service.database, order_id)
        if row is None:
            raise not_found(f"payment of order {order_id}")
        return PaymentAnswer(
            order_id=row.order_id,
            state=row.state,
            amount=row.request.get("amount"),
            refunded=row.result or None,
            payment_id=row.reference,
            reason=row.reason,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )

    return api
