"""What is measured: the one order that both sides place, and the workflows under which it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from client.order_bodies import basket
from orderflow import routing
from orderflow.contracts import Address, EventBus, Item, Money, OrderSnapshot, Workflow
from orderflow.routing import uses_bus

ITEMS: Final = (("BOOK-1", 2), ("MUG-1", 1))
CARD: Final = "pm_card_visa"
POSTAL_CODE: Final = "10115"

SNAPSHOT: Final = OrderSnapshot(
    items=tuple(Item(sku=sku, quantity=quantity) for sku, quantity in ITEMS),
    total=Money(amount=5248, currency="EUR"),
    payment_method=CARD,
    address=Address(**basket(ITEMS, CARD, POSTAL_CODE)["shipping_address"]),
)
"""The same order, in the form that the services put into messages."""


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
        """The variant of the words that requests use."""
        return cls(Workflow(workflow), EventBus(event_bus))


def variants(workflow: str | None = None, event_bus: str | None = None) -> list[Variant]:
    """Every built workflow, over each bus if it uses one; narrowed to those that were asked for.

    Hybrid is measured over SNS only, unless hybrid or a bus is asked for: its bus carries only two of its messages.
    """
    asked = workflow is not None or event_bus is not None
    return [
        Variant(built, bus)
        for built, bus in routing.variants(workflow, event_bus)
        if asked or built is not Workflow.HYBRID or bus is EventBus.SNS
    ]


def request_body(variant: Variant) -> dict[str, Any]:
    """The body of `POST /orders`."""
    return basket(ITEMS, CARD, POSTAL_CODE, variant.workflow.value, variant.event_bus.value, customer="bench")
