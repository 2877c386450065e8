"""The whole system in one process and one thread: five services on an AWS in memory, with its state machine, real
databases, real code.

Nothing happens unless a test makes it happen: `deliver` one batch, `publish`, let time pass. A test can therefore play
every interleaving, and a crash is an exception at a failpoint followed by `restart`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
import pytest
import structlog
from pydantic import SecretStr

from orchestrator import main as orchestrator
from orchestrator.guardian import Guardian
from orderflow.errors import BrokerUnavailable, Transient
from orderflow.providers.calls import ProviderApplication
from orderflow.service import Service
from orderflow.settings import Settings
from services.inventory import main as inventory
from services.order import main as order
from services.order.placement import Placing
from services.order.schemas import OrderRequest
from services.payment import main as payment
from services.shipping import main as shipping
from simulator.ledger import Ledger
from tests.support.aws_like.memory import AwsLikeBroker
from tests.support.aws_like.rules import Rules
from tests.support.bodies import order_body
from tests.support.machine import Inline
from tests.support.world_clocks import Clocks
from tests.support.world_looks import Looks, keep_connections

BUILD: Final[Mapping[str, Callable[..., Service]]] = {
    "order": order.build,
    "inventory": inventory.build,
    "payment": payment.build,
    "shipping": shipping.build,
    "orchestrator": orchestrator.build,
}


MEMORY: Final[dict[str, Any]] = {
    "aws_endpoint_url": "http://memory",
    "lease": 60,
    "database_pool": 2,
    "retry_budget": 10**6,  # hours pass here that its clock doesn't see
}
"""The settings of the world."""


LONG_POLL: Final = 20
"""Seconds of a poll."""

_TRIES: Final = 50
"""So many attempts in a row that one of them gets through, if any can."""


class Crash(BaseException):
    """The death of a process, at a failpoint."""


def request(**changes: Any) -> OrderRequest:
    """A valid order, with changes: `sku`, `quantity`, `postal_code` or any field of the request."""
    return OrderRequest.model_validate(order_body(**changes), strict=False)


@dataclass
class World(Clocks):
    """`urls` are the databases by service, and `providers`. `settings` are changes to what tests run with. By `rules`
    AWS leaves something to chance; without, it does what it is asked, at once and in order."""

    urls: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    random: random.Random = field(default_factory=lambda: random.Random(0))
    rules: Rules = field(default_factory=lambda: Rules(0, {}))

    def __post_init__(self) -> None:
        self.broker = AwsLikeBroker(Settings(**MEMORY | dict(self.settings)), self.rules)
        self.services: dict[str, Service] = {}
        self.looks = Looks()
        self._read: dict[str, Settings] = {}
        """By the database's URL: a restored one has another."""
        self._outside: dict[str, psycopg.Connection[Any]] = {}
        # The oracle reads the providers' tables, even if no order needed a provider.
        ledger = Ledger(self.urls["providers"], timeout=5, size=1)
        ledger.open(10)
        ledger.close()
        for name in BUILD:
            self.start(name)

    def start(self, name: str, follows: Service | None = None) -> None:
        """Starts a new process of a service, with nothing in memory. `follows`: the process whose place it takes."""
        url = self.urls[name]
        if url not in self._read:  # a crash changes none, and reading them takes longer than most starts
            values = MEMORY | dict(self.settings)
            values |= {
                "database_url": SecretStr(url),
                "providers_database_url": SecretStr(self.urls["providers"]),
            }
            self._read[url] = Settings(**values)
        service = BUILD[name](self._read[url], self.broker)
        if follows:
            keep_connections(follows, service)
        self.looks.watch(service)
        if isinstance(service.application, ProviderApplication):
            service.application._executor = Inline()
            service.application.breaker.now = lambda: time.monotonic() + self.passed
        service.database.open()
        service.consumer.watermark.now = lambda: time.monotonic() + self._moved
        for sweeper in getattr(service.sweeper, "_sweepers", ()):
            if isinstance(sweeper, Guardian):
                sweeper._now = lambda: self.broker.account.now  # it rests after a call that failed
        self.services[name] = service

    def close(self) -> None:
        for service in self.services.values():
            service._close()  # the connections to its provider
            service.database.close()
        for connection in self._outside.values():
            connection.close()

    def restart(self, name: str) -> None:
        """kill -9, and a new process; its messages in flight become visible again."""
        self.broker.queues[name].redeliver()
        self.start(name, follows=self.services[name])

    def place(self, **changes: Any) -> str:
        """Places an order over the API, and returns its id."""
        service = self.services["order"]
        placing = Placing(service.settings, service.database, service.outbox)
        return placing.place(request(**changes), None).order_id

    def cancel(self, order_id: str) -> int:
        """Cancels as the customer, over HTTP; returns the status code."""
        return self.http("order").post(f"/orders/{order_id}/cancel").status_code

    def http(self, name: str) -> Any:
        """A client of the service's API."""
        from orderflow.web import create_app

        module = {"order": order, "inventory": inventory, "payment": payment, "shipping": shipping}.get(
            name, orchestrator
        )
        return create_app(self.services[name], [module.blueprint(self.services[name])]).test_client()

    def publish(self, name: str) -> None:
        """Sends what the service's process has staged, as far as its destinations accept it: a call that fails is
        retried."""
        publisher, tries = self.services[name].publisher, 1 if self.rules.quiet else _TRIES
        if not any(lane._waiting or lane._behind or lane._retries for lane in publisher.lanes):
            return
        while (moved := publisher.step()) or (publisher.waiting and tries > 1):
            tries -= not moved

    def deliver(self, name: str) -> int:
        """Delivers one batch to a service, and returns how many messages. Like a consumer it long-polls, which takes no
        time here."""
        for _ in range(_TRIES):
            with suppress(BrokerUnavailable):
                return self.services[name].consumer.step(LONG_POLL)
        return 0

    def deliver_all(self) -> int:
        """Delivers one batch to each service for which messages wait, and returns how many messages."""
        return sum(self.deliver(name) for name in self.services if self.broker.queues[name].waiting)

    def settle(self, rounds: int = 2000) -> None:
        """Runs until nothing moves any more: late events have arrived, and failed calls have been retried."""
        failures, patience, run_outs = -1, 0, 0
        for _ in range(rounds):
            for name in self.services:
                self.publish(name)
            if self.deliver_all() + self.call_again():
                continue
            for service in self.services.values():
                service.outbox.flush()
            if self.broker.account.late:
                self.broker.account.pass_time(60)
                continue
            patience = 3 if failures != self.rules.failures else patience - 1
            failures = self.rules.failures
            run_outs += 1  # what waits for more than that would continue for as long as any call fails
            if self.rules.quiet or not patience or run_outs > 20 or not self._run_out():
                break
        else:
            raise AssertionError("the system does not become quiet")
        for name, service in self.services.items():
            if service.receivers:  # an owner's deadlines need to know that its queue is empty
                self.deliver(name)

    def sweep(self, name: str, **known: Any) -> None:
        """An owner handles its due orders, with what is `known` to it."""
        for _ in range(_TRIES):
            with suppress(BrokerUnavailable):
                self.services[name].sweeper.sweep(0, **known)  # type: ignore[union-attr]
                return

    def execute(self, name: str, sql: str, parameters: Any = None) -> list[Any]:
        """Runs a statement on a service's database, from outside."""
        if name not in self._outside or self._outside[name].closed:
            self._outside[name] = psycopg.connect(self.urls[name], autocommit=True)
        cursor = self._outside[name].execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []

    def leave(self, name: str) -> None:
        """Closes the outside connection; the next statement opens another one."""
        if connection := self._outside.get(name):
            connection.close()

    def status(self, order_id: str) -> str:
        return str(self.execute("order", "SELECT status FROM orders WHERE id = %s", [order_id])[0][0])

    def parked(self) -> list[tuple[str, str]]:
        """(service, reason) of all dead letters."""
        return [(name, reason) for name, queue in self.broker.queues.items() for _, reason in queue.parked]

    def recover(self, rounds: int = 60) -> None:
        """Gives the system time, whatever happened, until every order has ended."""
        for i in range(rounds):
            try:
                for queue in self.broker.queues.values():
                    queue.redeliver()
                self.expire_leases()
                self.end_backoffs()
                self.relay()
                self.settle()
            except Transient:
                continue
            if not self.execute("order", "SELECT 1 FROM orders WHERE open AND NOT attention LIMIT 1"):
                self.relay()
                self.settle()
                return
            self.pass_time(25 if i % 3 else 0)
        raise AssertionError("orders stay open")


@contextmanager
def quieter(level: int) -> Iterator[None]:
    """Logs nothing below this level: rendering takes longer than the work that it reports."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def failing_on_purpose(world: World) -> Iterator[World]:
    """Begins without dead letters. The handlers' failures are intended, so no tracebacks are rendered."""
    for queue in world.broker.queues.values():
        queue.parked.clear()
    with quieter(logging.CRITICAL):
        yield world


@contextmanager
def world_on(new_database: Callable[[str | None], str], rules: Rules | None = None, **settings: Any) -> Iterator[World]:
    """A world on its own databases, with these rules and these changes to the tests' settings."""
    urls = {name: new_database(name) for name in BUILD} | {"providers": new_database(None)}
    made = World(urls, settings, rules=rules or Rules(0, {}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orderflow.broker.aws.clients._LOOK_PAUSE", 0.0)  # the test moves time
        with quieter(logging.WARNING if made.rules.quiet else logging.ERROR):
            yield made
    made.close()
