"""Handles ChargePayment and RefundPayment: which provider calls they become, and what the service answers.

The handlers don't know which workflow an order runs under.
"""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

from orderflow.contracts import ChargePayment, Message, Money, PaymentCharged, PaymentRefunded
from orderflow.providers import Refused, Success, Voided
from orderflow.providers.calls import CallPolicy, ProviderApplication
from orderflow.providers.intents import Intent
from orderflow.saga import PAYMENT
from services.payment import models, reactions
from services.payment.provider import PaymentProvider


class Payment(ProviderApplication):
    """Payment as an application of the kernel. Commands are idempotent per order: a repeated command is answered from
    the payment's row."""

    service = "payment"
    step = PAYMENT
    kind = "charge"

    def __init__(self, provider: PaymentProvider, policy: CallPolicy, *, executor: Executor | None = None) -> None:
        super().__init__(models.TABLE, policy, executor=executor)
        self.provider = provider

    def accept(self, message: Message) -> Message | None:
        return reactions.react(message)

    def request(self, command: Message) -> dict[str, Any]:
        assert isinstance(command, ChargePayment)
        return command.model_dump(mode="json")

    def do(self, key: str, order_id: str, request: dict[str, Any]) -> Success | Refused:
        asked = ChargePayment.model_validate(request)
        return self.provider.charge(key, order_id, asked.amount.amount, asked.amount.currency, asked.payment_method)

    def void(self, key: str, order_id: str) -> Voided:
        return self.provider.void(key, order_id)

    def lookup(self, key: str) -> Success | None:
        return self.provider.lookup(key)

    def success(self, row: Intent) -> Message:
        return PaymentCharged(payment_id=row.reference or "", amount=Money.model_validate(row.request["amount"]))

    def undone(self, row: Intent) -> Message:
        return PaymentRefunded(amount=Money.model_validate(row.result) if row.result else None)

    def close(self) -> None:
        super().close()
        self.provider.close()
