"""The protocol of a carrier, and the simulated carrier. `orderflow.providers` has the rules for both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from orderflow.contracts import Address, Item
from orderflow.providers import Refused, Success, Voided
from orderflow.settings import Settings
from services.shipping import domain
from simulator import Simulated
from simulator.provider import Trade, ledger_of

TRADE: Final = Trade("carrier", "shipment", "cancellation")


class Carrier(Protocol):
    """What shipping needs of a carrier. The adapter of a real carrier implements these methods."""

    def book(self, key: str, order_id: str, items: Sequence[Item], address: Address) -> Success | Refused:
        """Books one shipment of all the items."""

    def void(self, key: str, order_id: str) -> Voided:
        """Cancels the shipment booked under `key`, or makes sure that there never is one."""

    def lookup(self, key: str) -> Success | None:
        """The shipment booked under `key`, if there is one."""

    def close(self) -> None: ...


class SimulatedCarrier(Simulated):
    """A simulated carrier. Postal codes choose its behaviour."""

    def book(self, key: str, order_id: str, items: Sequence[Item], address: Address) -> Success | Refused:
        """See `Carrier`."""
        refusal = domain.refusal(address.postal_code)
        if refusal:
            return self._refuse(refusal)
        return self._do(key, order_id, slower=domain.seconds_to_book(address.postal_code, self.timeout))


def simulated(settings: Settings) -> SimulatedCarrier:
    """The simulated carrier, configured by the settings. Raises ConfigurationError."""
    return SimulatedCarrier(
        TRADE, ledger_of(settings), timeout=settings.provider_timeout, key_life=settings.provider_key_life
    )
