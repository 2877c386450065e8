"""Choreography: which event makes payment do what. A command from a coordinator passes through as it is."""

from __future__ import annotations

from orderflow.contracts import (
    ChargePayment,
    Message,
    OrderCancellationRequested,
    RefundPayment,
    ShipmentRejected,
    StockReserved,
)
from orderflow.errors import Rejected


def react(message: Message) -> Message | None:
    """Payment's own command for a message, or None if the message does not concern payment.

    Raises Rejected for a StockReserved that doesn't carry its order.
    """
    match message:
        case StockReserved(order=None):
            raise Rejected("StockReserved came without its order: nobody can tell what to charge")
        case StockReserved(order=order) if order is not None:
            return ChargePayment(amount=order.total, payment_method=order.payment_method)
        case ShipmentRejected() | OrderCancellationRequested():
            return RefundPayment()
        case ChargePayment() | RefundPayment():
            return message
        case _:
            return None
