"""Payment and shipping as data for tests that hold for both, with hooks around their simulated providers' calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from orderflow.contracts import (
    Address,
    CancelShipment,
    ChargePayment,
    Item,
    Message,
    Money,
    RefundPayment,
    ScheduleShipment,
)
from orderflow.providers.calls import CallPolicy, ProviderApplication
from services.payment.handlers import Payment
from services.payment.provider import TRADE as PAYMENTS
from services.payment.provider import SimulatedPayments
from services.shipping.handlers import Shipping
from services.shipping.provider import TRADE as SHIPMENTS
from services.shipping.provider import SimulatedCarrier

POLICY = CallPolicy(timeout=0.2, attempts=3, concurrency=4, key_life=3600, lease=30, backoff=0.001)


PRICE = Money(amount=3998, currency="EUR")


@dataclass
class Hooks:
    """What happens just before and after a provider's effect, by call (`do`, `void`, `lookup`); how often each ran."""

    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    after: dict[str, Callable[[], None]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def around(self, what: str) -> Iterator[None]:
        self.calls[what] += 1
        self.before.get(what, lambda: None)()
        yield
        self.after.get(what, lambda: None)()


def _hooked(base: type) -> type:
    """`base` (a simulated provider) with hooks around its calls."""

    class Hooked(base):  # type: ignore[misc]
        hooks: Hooks

        def charge(self, *args: Any) -> Any:
            with self.hooks.around("do"):
                return super().charge(*args)

        def book(self, *args: Any) -> Any:
            with self.hooks.around("do"):
                return super().book(*args)

        def void(self, *args: Any) -> Any:
            with self.hooks.around("void"):
                return super().void(*args)

        def lookup(self, *args: Any) -> Any:
            with self.hooks.around("lookup"):
                return super().lookup(*args)

    return Hooked


@dataclass(frozen=True)
class Kind:
    """One of the two services, as data for tests that hold for both."""

    service: str
    table: str
    does: str
    undoes: str
    application: Callable[..., ProviderApplication]
    provider: Callable[..., Any]
    good: Message
    bad: Message
    undo: Message
    success: str
    refusal: str
    undone: str


def _parcel(postal_code: str) -> ScheduleShipment:
    address = Address(name="Ada", line1="1 Main St", city="Berlin", postal_code=postal_code, country="DE")
    return ScheduleShipment(items=(Item(sku="BOOK-1", quantity=2),), address=address)


PAYMENT = Kind(
    "payment", "payments", "charge", "refund", Payment,
    lambda *args, **kwargs: _hooked(SimulatedPayments)(PAYMENTS, *args, **kwargs),
    ChargePayment(amount=PRICE, payment_method="pm_card_visa"),
    ChargePayment(amount=PRICE, payment_method="pm_card_declined"),
    RefundPayment(), "PaymentCharged", "PaymentDeclined", "PaymentRefunded",
)  # fmt: skip


SHIPPING = Kind(
    "shipping", "shipments", "shipment", "cancellation", Shipping,
    lambda *args, **kwargs: _hooked(SimulatedCarrier)(SHIPMENTS, *args, **kwargs),
    _parcel("10115"), _parcel("00000"), CancelShipment(), "ShipmentScheduled", "ShipmentRejected", "ShipmentCancelled",
)  # fmt: skip
