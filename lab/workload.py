"""What is measured: the one order that everybody places, and the workflows it runs under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from orderflow.contracts import Address, EventBus, Item, Money, OrderSnapshot, Workflow
from orderflow.routing import TABLE, Channel

ITEMS: Final = (("BOOK-1", 2), ("MUG-1", 1))
CARD: Final = "pm_card_visa"
_ADDRESS: Final = {
    "name": "Ada Lovelace", "line1": "12 St James's Square", "city": "London", "postal_code": "10115", "country": "GB"
}  # fmt: skip

SNAPSHOT: Final = OrderSnapshot(
    items=tuple(Item(sku=sku, quantity=quantity) for sku, quantity in ITEMS),
    total=Money(amount=5248, currency="EUR"),
    payment_method=CARD,
    address=Address(**_ADDRESS),
)
"""The same order as the services put it into messages."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run an order."""

    workflow: Workflow
    event_bus: EventBus

    @property
    def name(self) -> str:
        """`choreography/sns`; the workflow alone where no bus is used."""
        return f"{self.workflow.value}/{self.event_bus.value}" if uses_bus(self.workflow) else self.workflow.value

    @classmethod
    def of(cls, workflow: str, event_bus: str) -> Variant:
        """From the words that requests use."""
        return cls(Workflow(workflow), EventBus(event_bus))


def uses_bus(workflow: Workflow) -> bool:
    """Whether any message of a workflow goes over the event bus."""
    return any(route.channel is Channel.BUS for route in TABLE[workflow].values())


def variants(workflow: str | None = None, event_bus: str | None = None) -> list[Variant]:
    """Every built workflow, over each bus where it uses one; narrowed to what was asked for.

    Hybrid is measured over SNS unless it, or a bus, is asked for: its bus carries two of its messages.
    """
    found = []
    for built in TABLE:
        buses = list(EventBus) if uses_bus(built) else [EventBus.SNS]
        if built is Workflow.HYBRID and workflow is None and event_bus is None:
            buses = [EventBus.SNS]
        found += [Variant(built, bus) for bus in buses]
    return [
        v
        for v in found
        if workflow in (None, v.workflow.value) and (event_bus in (None, v.event_bus.value) or not uses_bus(v.workflow))
    ]


def request_body(variant: Variant) -> dict[str, Any]:
    """The body of `POST /orders`."""
    return {
        "customer_id": "bench",
        "items": [{"sku": sku, "quantity": quantity} for sku, quantity in ITEMS],
        "payment_method": CARD,
        "shipping_address": _ADDRESS,
        "workflow": variant.workflow.value,
        "event_bus": variant.event_bus.value,
    }
