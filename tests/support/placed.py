"""An order that was just placed, as a message."""

from __future__ import annotations

from orderflow import clock
from orderflow import contracts as c
from orderflow.contracts import EventBus, Workflow
from orderflow.envelope import Envelope, compose

SNAPSHOT = c.OrderSnapshot(
    items=(c.Item(sku="BOOK-1", quantity=2),),
    total=c.Money(amount=3998, currency="EUR"),
    payment_method="pm_card_visa",
    address=c.Address(name="Ada", line1="1 Main St", city="Berlin", postal_code="10115", country="DE"),
)


def placed(traceparent: str | None = f"00-{'1' * 32}-{'2' * 16}-01") -> Envelope:
    """The OrderPlaced of a new order for the state machine."""
    return compose(
        c.OrderPlaced(order=SNAPSHOT),
        source="order",
        order_id=clock.new_id(),
        workflow=Workflow.STEP_FUNCTIONS,
        event_bus=EventBus.SNS,
        traceparent=traceparent,
    )
