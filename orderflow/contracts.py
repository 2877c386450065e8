"""The messages between the services: one frozen model per message, versioned by its class.

A command asks one service to do something; an event says what has happened: the outcome of a command, or a change of
the order itself. Readers are tolerant (unknown fields are ignored), because a producer may be newer than its consumer.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

UNDONE = "undone"
"""The `reason` of a refusal whose step had already been compensated."""


class Workflow(StrEnum):
    """Who decides an order's next step."""

    CHOREOGRAPHY = "choreography"
    ORCHESTRATION = "orchestration"
    STEP_FUNCTIONS = "step-functions"
    HYBRID = "hybrid"


class EventBus(StrEnum):
    """What carries an order's events."""

    SNS = "sns"
    EVENTBRIDGE = "eventbridge"


class Message(BaseModel):
    """Base of all messages. `version` grows with a change that an older consumer can't read."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    version: ClassVar[int] = 1


NUL: Final = "\x00"
"""The one character that no text of PostgreSQL can hold. It is refused wherever text comes in."""

TEXT: Final = r"^[^\x00]*$"
"""The pattern of any text that PostgreSQL can hold."""

Text = Annotated[str, Field(max_length=500, pattern=TEXT)]

Id = Annotated[str, Field(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
"""A UUID in its canonical form."""

Sku = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
MAX_QUANTITY = 1_000_000


class Money(Message):
    """An amount in minor units (cents) of an ISO 4217 currency."""

    amount: Annotated[int, Field(ge=0, lt=2**53)]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]


class Item(Message):
    sku: Sku
    quantity: Annotated[int, Field(gt=0, le=MAX_QUANTITY)]


class Address(Message):
    name: Text
    line1: Text
    city: Text
    postal_code: Text
    country: Text


class OrderSnapshot(Message):
    """The order as it was accepted. In choreography it travels forward with the events (event-carried state)."""

    items: tuple[Item, ...]
    total: Money
    payment_method: Text
    address: Address


class Command(Message):
    """Base of the messages that ask one service to do something."""


class Event(Message):
    """Base of the messages that say what has happened."""


class Refusal(Event):
    """Base of the outcomes that refuse. `reason` is a short text for people, or `undone`."""

    reason: Text = ""


# The order.
class OrderPlaced(Event):
    order: OrderSnapshot


class OrderPaid(Event):
    """Hybrid: the orchestrator hands the paid order over to choreography."""

    order: OrderSnapshot


class ConfirmOrder(Command):
    pass


class OrderConfirmed(Event):
    pass


class ConfirmationRejected(Refusal):
    pass


class CancelOrder(Command):
    """Asks the arbiter to cancel, because of `facts`. The order becomes CANCELLED only if, by these and its own facts,
    no compensation is owed any more; otherwise it starts cancelling and answers with OrderCancellationRequested, or
    with OrderConfirmed if it had been confirmed first."""

    reason: Text = ""
    facts: tuple[Annotated[str, Field(pattern="^[A-Za-z]{1,64}$")], ...] = ()


class OrderCancelled(Event):
    reason: Text = ""


class OrderCancellationRequested(Event):
    """The order is cancelling: every step must be compensated, and can't be done any more."""

    reason: Text = ""


class OrderAccepted(Event):
    """The coordinator has received the order; sent only as the answer to a resend."""


class OrderNeedsAttention(Event):
    """The coordinator gave up on a step; an operator must look."""

    reason: Text = ""


class OrderRetryRequested(Event):
    """An operator asks the coordinator to resume an order that needed attention."""

    by: Text = ""
    why: Text = ""


class DeadLetterSettled(Event):
    """An operator redrove or discarded a dead letter (`letter` is its short type). The order's timeline records it."""

    action: Literal["redriven", "discarded"]
    letter: Text = ""
    by: Text = ""
    why: Text = ""


# Inventory.
class ReserveStock(Command):
    items: tuple[Item, ...]


class StockReserved(Event):
    items: tuple[Item, ...]
    order: OrderSnapshot | None = None


class StockRejected(Refusal):
    pass


class ReleaseStock(Command):
    pass


class StockReleased(Event):
    items: tuple[Item, ...] = ()


# Payment.
class ChargePayment(Command):
    amount: Money
    payment_method: Text


class PaymentCharged(Event):
    payment_id: Text
    amount: Money
    order: OrderSnapshot | None = None


class PaymentDeclined(Refusal):
    pass


class RefundPayment(Command):
    pass


class PaymentRefunded(Event):
    amount: Money | None = None
    """What was refunded; None if nothing had been charged."""


# Shipping.
class ScheduleShipment(Command):
    items: tuple[Item, ...]
    address: Address


class ShipmentScheduled(Event):
    shipment_id: Text


class ShipmentRejected(Refusal):
    pass


class CancelShipment(Command):
    pass


class ShipmentCancelled(Event):
    shipment_id: Text | None = None


MESSAGES: Mapping[str, type[Message]] = {
    model.__name__: model
    for model in (
        OrderPlaced, OrderPaid, ConfirmOrder, OrderConfirmed, ConfirmationRejected, CancelOrder, OrderCancelled,
        OrderCancellationRequested, OrderAccepted, OrderNeedsAttention, OrderRetryRequested,
        ReserveStock, StockReserved, StockRejected, ReleaseStock, StockReleased,
        ChargePayment, PaymentCharged, PaymentDeclined, RefundPayment, PaymentRefunded,
        ScheduleShipment, ShipmentScheduled, ShipmentRejected, CancelShipment, ShipmentCancelled,
        DeadLetterSettled,
    )
}  # fmt: skip
"""Every message, by its short name."""


def name_of(message: Message | type[Message]) -> str:
    """The short name, such as `StockReserved`."""
    return (message if isinstance(message, type) else type(message)).__name__


def type_of(message: Message | type[Message]) -> str:
    """The CloudEvents `type`, such as `orderflow.StockReserved.v1`."""
    return f"orderflow.{name_of(message)}.v{message.version}"


def kind_of(name: str) -> str:
    """`command` or `event`, by a message's short name; `note` if it names no message."""
    model = MESSAGES.get(name)
    return "note" if model is None else "command" if issubclass(model, Command) else "event"
