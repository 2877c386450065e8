"""The protocol of a payment provider, and the simulated provider. `orderflow.providers` has the rules for both."""

from __future__ import annotations

from typing import Final, Protocol

from orderflow.providers import Refused, Success, Voided
from orderflow.settings import Settings
from services.payment import domain
from simulator import Simulated
from simulator.provider import Trade, ledger_of

TRADE: Final = Trade("payment", "charge", "refund")


class PaymentProvider(Protocol):
    """What payment needs of a provider. The adapter of a real provider implements these methods."""

    def charge(self, key: str, order_id: str, amount: int, currency: str, payment_method: str) -> Success | Refused:
        """Charges `amount` minor units of `currency`."""

    def void(self, key: str, order_id: str) -> Voided:
        """Refunds the charge made under `key`, or makes sure that there never is one."""

    def lookup(self, key: str) -> Success | None:
        """The charge made under `key`, if there is one."""

    def close(self) -> None: ...


class SimulatedPayments(Simulated):
    """A simulated provider. Test cards choose its behaviour, as at Stripe: https://docs.stripe.com/testing"""

    def charge(self, key: str, order_id: str, amount: int, currency: str, payment_method: str) -> Success | Refused:
        """See `PaymentProvider`."""
        refusal = domain.refusal(payment_method)
        if refusal:
            return self._refuse(refusal)
        loses = domain.loses_answers(payment_method)
        return self._do(key, order_id, amount=amount, currency=currency, loses=loses)


def simulated(settings: Settings) -> SimulatedPayments:
    """The simulated provider, configured by the settings. Raises ConfigurationError."""
    return SimulatedPayments(
        TRADE, ledger_of(settings), timeout=settings.provider_timeout, key_life=settings.provider_key_life
    )
