"""What a world knows of its databases: where nothing can wait, nobody looks. A look in vain costs as much as work does.

It is known by what was attempted, whether it was committed or not, and forgotten only when a look has found nothing: so
neither a crash nor a lost answer makes it wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from orderflow.providers.calls import ProviderApplication
from orderflow.service import Service
from simulator import Simulated

WAITING: Final = {"payment": "payments_waiting", "shipping": "shipments_waiting"}
"""Services that call a provider, and where its calls wait."""


class Looks:
    """Where messages may be unsent (`outboxes`), and where calls may wait for their provider (`calls`): by service.

    A service's rows that another process than the world's has put there are not known: a test that does so sets
    `every`, and all looks are made."""

    def __init__(self) -> None:
        self.every = False
        self._outboxes: set[str] = set()
        self._calls: set[str] = set()

    def watch(self, service: Service) -> None:
        """Of a process that begins: what another left is not known."""
        self._outboxes.add(service.name)
        service.outbox._store = _noting(service.outbox._store, self._outboxes, service.name)  # type: ignore[method-assign]
        if isinstance(service.application, ProviderApplication):
            waits = service.application.waits
            self._calls.add(service.name)
            waits.put = _noting(waits.put, self._calls, service.name)  # type: ignore[method-assign]

    def unsent(self, name: str) -> bool:
        """Whether its outbox may hold messages."""
        return self.every or name in self._outboxes

    def called(self, name: str) -> bool:
        """Whether calls may wait there for their provider."""
        return self.every or name in self._calls

    def no_message(self, name: str) -> None:
        """Its outbox has been found empty."""
        self._outboxes.discard(name)

    def no_call(self, name: str) -> None:
        """No call has been found waiting."""
        self._calls.discard(name)


def _noting(put: Callable[..., Any], where: set[str], name: str) -> Callable[..., Any]:
    def noting(connection: Any, what: Any) -> Any:
        if what:
            where.add(name)
        return put(connection, what)

    return noting


def keep_connections(old: Service, new: Service) -> None:
    """A process that dies gives its connections to the one that follows it, instead of closing them: what it began is
    rolled back when they return to their pool, as if PostgreSQL had noticed. Connecting takes longer than an order."""
    new.database._pool, new.database._refusals = old.database._pool, old.database._refusals
    for what, provider in vars(old.application).items():
        if isinstance(provider, Simulated):
            vars(new.application)[what]._ledger._pool = provider._ledger._pool
