"""Shipping over HTTP."""

from __future__ import annotations

from typing import Literal

from flask import Blueprint
from pydantic import BaseModel

from orderflow.service import Service
from orderflow.web import Answer, Time, not_found, operation
from services.shipping.handlers import Shipping


class ShipmentAnswer(BaseModel):
    """`shipment_id` is the carrier's id. An address is never shown."""

    order_id: str
    state: Literal["intended", "done", "refused", "undoing", "undone"] | str
    """A newer release may have more states."""
    shipment_id: str | None
    reason: str
    created_at: Time
    updated_at: Time


def blueprint(service: Service) -> Blueprint:
    """Shipping's own routes."""
    api = Blueprint("shipping", __name__)
    application = service.application
    assert isinstance(application, Shipping)

    @api.get("/shipments/<id:order_id>")
    @operation("The shipment of an order", answers={200: ShipmentAnswer}, problems=(404,))
    def shipment(order_id: str) -> Answer:
        row = application.intents.find(service.database, order_id)
        if row is None:
            raise not_found(f"shipment of order {order_id}")
        return ShipmentAnswer(
            order_id=row.order_id,
            state=row.state,
            shipment_id=row.reference,
            reason=row.reason,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )

    return api
