"""Choreography and hybrid: which event makes shipping do what. A command from a coordinator passes through as it is."""

from __future__ import annotations

from orderflow.contracts import (
    CancelShipment,
    Message,
    OrderCancellationRequested,
    OrderPaid,
    PaymentCharged,
    ScheduleShipment,
)
from orderflow.errors import Rejected


def react(message: Message) -> Message | None:
    """Shipping's own command for a message, or None if the message does not concern shipping.

    Raises Rejected for a PaymentCharged that doesn't carry its order.
    """
    match message:
        case PaymentCharged(order=None):
            raise Rejected("PaymentCharged came without its order: nobody can tell what to ship")
        case PaymentCharged(order=order) | OrderPaid(order=order) if order is not None:
            return ScheduleShipment(items=order.items, address=order.address)
        case OrderCancellationRequested():
            return CancelShipment()
        case ScheduleShipment() | CancelShipment():
            return message
        case _:
            return None
