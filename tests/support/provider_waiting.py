"""Orders that wait for their provider."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orderflow.contracts import Address, Item, OrderSnapshot, PaymentCharged
from orderflow.envelope import Envelope
from orderflow.messaging.guard import Done
from tests.support.provider_kinds import POLICY, PRICE
from tests.support.provider_process import ProviderWorld, ask, fail, kinds_of

pytestmark = pytest.mark.row(30)


ONCE = replace(POLICY, attempts=1)


ORDER = OrderSnapshot(
    items=(Item(sku="BOOK-1", quantity=2),), total=PRICE, payment_method="pm_card_visa",
    address=Address(name="Ada", line1="1 Main St", city="Berlin", postal_code="10115", country="DE"),
)  # fmt: skip


PAID = PaymentCharged(payment_id="ch_1", amount=PRICE, order=ORDER)


def token(envelope: Envelope, value: str) -> Envelope:
    return envelope.model_copy(update={"tasktoken": value})


def wait_for_provider(world: ProviderWorld, *orders: str, undo: bool = False) -> None:
    """Asks for the step (or its undo) of each order while the provider gives no answer."""
    process = world.process(replace(ONCE, outage_after=1000))
    process.hooks.before |= {"do": fail, "void": fail}
    for order_id in orders:
        assert kinds_of(process.handle(ask(world.kind.undo if undo else world.kind.good, order_id))) == [Done]
        assert world.waits(order_id) is not None
