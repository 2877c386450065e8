"""Choreography: which event makes inventory do what. A command from a coordinator passes through as it is."""

from __future__ import annotations

from orderflow.contracts import (
    Message,
    OrderCancellationRequested,
    OrderPlaced,
    PaymentDeclined,
    ReleaseStock,
    ReserveStock,
    ShipmentRejected,
)


def react(message: Message) -> Message | None:
    """Inventory's own command for a message, or None if the message does not concern inventory."""
    match message:
        case OrderPlaced(order=order):
            return ReserveStock(items=order.items)
        case PaymentDeclined() | ShipmentRejected() | OrderCancellationRequested():
            return ReleaseStock()
        case ReserveStock() | ReleaseStock():
            return message
        case _:
            return None
