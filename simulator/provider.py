"""One simulated provider. Each call meets the faults first, then the ledger."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from orderflow import clock
from orderflow.errors import UnknownOutcome
from orderflow.providers import Refused, Success, Voided
from orderflow.settings import Settings
from simulator.faults import FaultBox
from simulator.ledger import Ledger, LedgerEntry

_PREFIXES: Final = {"charge": "ch", "refund": "re", "shipment": "sh", "cancellation": "ca"}


@dataclass(frozen=True, slots=True)
class Trade:
    """The names in the ledger for what a provider does (`does`) and for the reversal of it (`undoes`)."""

    provider: str
    does: str
    undoes: str


class Simulated:
    """The common part of the simulated providers. It follows the rules of `orderflow.providers`."""

    def __init__(self, trade: Trade, ledger: Ledger, *, timeout: float, key_life: float) -> None:
        self._trade = trade
        self._ledger = ledger
        self.timeout = timeout
        self._key_life = key_life
        self.faults = FaultBox(ledger, trade.provider, timeout)

    def void(self, key: str, order_id: str) -> Voided:
        """See `orderflow.providers`."""
        lost = self.faults.meet()
        undo = self._trade.undoes
        done = self._ledger.void(self._trade.does, undo, order_id, key, _new_id(undo))
        if lost:
            raise UnknownOutcome("the provider's answer was lost")
        return Voided(*done) if done else Voided()

    def lookup(self, key: str) -> Success | None:
        """See `orderflow.providers`."""
        lost = self.faults.meet()
        done = self._ledger.lookup(self._trade.does, key)
        if lost:
            raise UnknownOutcome("the provider's answer was lost")
        return Success(done) if done else None

    def entries(self, order_id: str | None, limit: int) -> list[LedgerEntry]:
        """This provider's entries in the ledger, newest first. Raises UnknownOutcome."""
        return self._ledger.entries((self._trade.does, self._trade.undoes), order_id, limit)

    def close(self) -> None:
        """Closes its connections."""
        self._ledger.close()

    def _refuse(self, reason: str) -> Refused:
        if self.faults.meet():
            raise UnknownOutcome("the provider's answer was lost")
        return Refused(reason)

    def _do(
        self, key: str, order_id: str, *,
        amount: int | None = None, currency: str | None = None, loses: bool = False, slower: float = 0.0,
    ) -> Success | Refused:  # fmt: skip
        lost = self.faults.meet(slower)
        does = self._trade.does
        verdict, done = self._ledger.do(
            does, order_id, key, _new_id(does), self._key_life, amount=amount, currency=currency, loses=loses
        )
        if verdict == "silent":
            time.sleep(self.timeout)
            raise UnknownOutcome("the provider did not answer in time")
        if lost:
            raise UnknownOutcome("the provider's answer was lost")
        return Success(done) if done else Refused("the provider's key was voided")


def ledger_of(settings: Settings) -> Ledger:
    """The providers' database, configured by the settings. Raises ConfigurationError."""
    return Ledger(
        settings.providers_database_url.get_secret_value(),
        timeout=settings.provider_timeout,
        size=settings.provider_concurrency,
    )


def _new_id(kind: str) -> str:
    return f"{_PREFIXES[kind]}_{clock.new_id()}"
