"""Handles ScheduleShipment and CancelShipment: which carrier calls they become, and what the service answers.

The handlers don't know which workflow an order runs under.
"""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

from orderflow.contracts import Message, ScheduleShipment, ShipmentCancelled, ShipmentScheduled
from orderflow.providers import Refused, Success, Voided
from orderflow.providers.calls import CallPolicy, ProviderApplication
from orderflow.providers.intents import Intent
from orderflow.saga import SHIPMENT
from services.shipping import models, reactions
from services.shipping.provider import Carrier


class Shipping(ProviderApplication):
    """Shipping as an application of the kernel. Commands are idempotent per order: a repeated command is answered from
    the shipment's row."""

    service = "shipping"
    step = SHIPMENT
    kind = "shipment"

    def __init__(self, carrier: Carrier, policy: CallPolicy, *, executor: Executor | None = None) -> None:
        super().__init__(models.TABLE, policy, executor=executor)
        self.carrier = carrier

    def accept(self, message: Message) -> Message | None:
        return reactions.react(message)

    def request(self, command: Message) -> dict[str, Any]:
        assert isinstance(command, ScheduleShipment)
        return command.model_dump(mode="json")

    def do(self, key: str, order_id: str, request: dict[str, Any]) -> Success | Refused:
        asked = ScheduleShipment.model_validate(request)
        return self.carrier.book(key, order_id, asked.items, asked.address)

    def void(self, key: str, order_id: str) -> Voided:
        return self.carrier.void(key, order_id)

    def lookup(self, key: str) -> Success | None:
        return self.carrier.lookup(key)

    def success(self, row: Intent) -> Message:
        return ShipmentScheduled(shipment_id=row.reference or "")

    def undone(self, row: Intent) -> Message:
        return ShipmentCancelled(shipment_id=row.reference)

    def close(self) -> None:
        super().close()
        self.carrier.close()
