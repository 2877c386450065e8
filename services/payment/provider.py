"""What payment asks of its provider, and the simulated one. The rules are those of `orderflow.providers`."""

from __future__ import annotations

from typing import Final, Protocol

from orderflow.providers import Refused, Success, Voided
from orderflow.settings import Settings
from services.payment import domain
from simulator import Simulated
from simulator.provider import Trade, ledger_of

TRADE: Final = Trade("payment", "charge", "refund")


class PaymentProvider(Protocol):
    """A real provider's adapter has these methods too."""

    def charge(self, key: str, order_id: str, amount: int, currency: str, payment_method: str) -> Success | Refused:
        """Takes `amount` minor units of `currency`."""

    def void(self, key: str, order_id: str) -> Voided:
        """Gives the charge back, or sees to it that there never is one."""

    def lookup(self, key: str) -> Success | None:
        """The charge made under `key`, if there is one."""

    def close(self) -> None: ...


class SimulatedPayments(Simulated):
    """Driven by test cards, like Stripe's: https://docs.stripe.com/testing"""

    def charge(self, key: str, order_id: str, amount: int, currency: str, payment_method: str) -> Success | Refused:
        """See `PaymentProvider`."""
        refusal = domain.refusal(payment_method)
        if refusal:
            return self._refuse(refusal)
        loses = domain.loses_answers(payment_method)
        return self._do(key, order_id, amount=amount, currency=currency, loses=loses)


def simulated(settings: Settings) -> SimulatedPayments:
    """The simulated provider as the settings say. Raises ConfigurationError."""
    return SimulatedPayments(
        TRADE, ledger_of(settings), timeout=settings.provider_timeout, key_life=settings.provider_key_life
    )
