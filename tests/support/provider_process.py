"""Payment or shipping as one process would run them, without threads of its own, over the simulated provider."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from orderflow import clock, failpoints
from orderflow.contracts import (
    Address,
    CancelShipment,
    ChargePayment,
    EventBus,
    Item,
    Message,
    Money,
    RefundPayment,
    ScheduleShipment,
    Workflow,
)
from orderflow.database import Database
from orderflow.envelope import Envelope, compose, decode
from orderflow.errors import UnknownOutcome
from orderflow.messaging import inbox
from orderflow.messaging.guard import Done, Guard, Verdict
from orderflow.messaging.outbox import Outbox
from orderflow.providers.calls import Limits, ProviderApplication
from orderflow.providers.processor import ProviderProcessor
from orderflow.providers.retrying import Retrying
from services.payment.handlers import Payment
from services.payment.provider import TRADE as PAYMENTS
from services.payment.provider import SimulatedPayments
from services.shipping.handlers import Shipping
from services.shipping.provider import TRADE as SHIPMENTS
from services.shipping.provider import SimulatedCarrier
from simulator.ledger import Ledger
from tests.support.machine import Inline
from tests.support.world import Crash

LIMITS = Limits(timeout=0.2, attempts=3, concurrency=4, key_life=3600, lease=30, backoff=0.001)
PRICE = Money(amount=3998, currency="EUR")


class Gate:
    """Stops a thread at a point until it is told to continue."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self._open = threading.Event()

    def pass_through(self) -> None:
        """Called by the arriving thread: waits until the gate is opened."""
        self.arrived.set()
        assert self._open.wait(10), "nobody opened the gate"

    def wait(self) -> None:
        """Waits for a thread to arrive."""
        assert self.arrived.wait(10), "nobody arrived at the gate"

    def open(self) -> None:
        """Lets the thread continue."""
        self._open.set()


@dataclass
class Hooks:
    """Functions that run just before and after a provider's effect, by call (`do`, `void`, `lookup`), and how often
    each call ran."""

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


class ProviderWorld:
    """The databases of one service and its provider, on which a test runs processes."""

    def __init__(self, kind: Kind, url: str, providers_url: str) -> None:
        self.kind = kind
        self._url = url
        self._admin = psycopg.connect(url, autocommit=True)
        self.ledger = Ledger(providers_url, timeout=LIMITS.timeout, size=8)
        self.ledger.open(10)
        self._processes: list[Process] = []

    def process(self, limits: Limits = LIMITS, *, executor: Executor | None = None) -> Process:
        """Starts another process of the service."""
        process = Process(self, self._url, limits, executor)
        self._processes.append(process)
        return process

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        cursor = self._admin.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []

    def row(self, order_id: str) -> tuple[str, int]:
        """(state, fence) of an order."""
        [row] = self.sql(f"SELECT state, fence FROM {self.kind.table} WHERE order_id = %s", order_id)
        return row

    def expire_lease(self, order_id: str) -> None:
        """Ends the intent's lease, as if the process that took it had been silent for long."""
        self.sql(f"UPDATE {self.kind.table} SET lease_until = now() - interval '1 s' WHERE order_id = %s", order_id)

    def waits(self, order_id: str) -> tuple[bool, int, int, bool] | None:
        """(compensates, resend number of the request, tries, due now) of an order that waits for the provider."""
        rows = self.sql(
            f"SELECT undo, resend, tries, next_at <= now() FROM {self.kind.table}_waiting WHERE order_id = %s", order_id
        )
        return rows[0] if rows else None

    def make_due(self) -> None:
        """Ends every back-off."""
        self.sql(f"UPDATE {self.kind.table}_waiting SET next_at = now() - interval '1 s'")

    def call_again(self, process: Process) -> int:
        """A process makes the waiting calls, whatever their back-off; returns how many it found."""
        self.make_due()
        return process.retrying.step()

    def envelopes(self, order_id: str) -> list[Envelope]:
        """All answers for an order, in their envelopes."""
        rows = self.sql("SELECT body FROM outbox WHERE order_id = %s ORDER BY entry", order_id)
        return [decode(body) for (body,) in rows]

    def age(self, order_id: str, seconds: float) -> None:
        """Makes the intent older by this many seconds."""
        shift = "created_at = created_at - make_interval(secs => %s)"
        self.sql(f"UPDATE {self.kind.table} SET {shift} WHERE order_id = %s", seconds, order_id)

    def outcomes(self, order_id: str) -> list[Message]:
        """All answers for an order, in order of time (nothing is published here, so the outbox holds them)."""
        return [envelope.message() for envelope in self.envelopes(order_id)]

    def entries(self, order_id: str) -> list[str]:
        """The kinds of the provider's ledger entries of an order, oldest first."""
        kinds = (self.kind.does, self.kind.undoes)
        return [entry.kind for entry in reversed(self.ledger.entries(kinds, order_id, 100))]

    def stop_processes(self) -> None:
        """Ends all processes that were started."""
        while self._processes:
            self._processes.pop().close()

    def close(self) -> None:
        self.stop_processes()
        self.ledger.close()
        self._admin.close()


class Process:
    """One process: its pool, its provider's client, its processor."""

    def __init__(self, world: ProviderWorld, url: str, limits: Limits, executor: Executor | None) -> None:
        kind = world.kind
        self.database = Database(url, size=8, name=f"test-{kind.service}")
        self.database.open()
        provider = kind.provider(world.ledger, timeout=limits.timeout, key_life=limits.key_life)
        self.hooks = provider.hooks = Hooks()
        self.provider = provider
        self.application = kind.application(provider, limits, executor=executor or Inline())
        outbox = Outbox(self.database, lease=10)
        self.retrying = Retrying(self.application, outbox)
        self.processor = ProviderProcessor(
            self.application,
            outbox,
            Guard(
                "test",
                lambda message_id, error: inbox.count_failure(self.database, message_id, error),
                parked_at=5,
            ),
        )

    def handle(self, *envelopes: Envelope) -> list[Verdict]:
        """The verdicts on a batch; waits for those that come late."""
        return [v.result(10) if isinstance(v, Future) else v for v in self.processor.process(envelopes)]

    def close(self) -> None:
        ProviderApplication.close(self.application)  # the ledger belongs to the ProviderWorld
        self.database.close()


def ask(message: Message, order_id: str | None = None, message_id: str | None = None) -> Envelope:
    """A command in its envelope, as the orchestrator sends it."""
    return compose(
        message, source="test", order_id=order_id or clock.new_id(), message_id=message_id,
        workflow=Workflow.ORCHESTRATION, event_bus=EventBus.SNS,
    )  # fmt: skip


def names(messages: Sequence[Message]) -> list[str]:
    """The short names of messages; a refusal because the step was compensated is named with its reason."""
    return [type(m).__name__ + (":undone" if getattr(m, "reason", "") == "undone" else "") for m in messages]


def in_background(job: Callable[[], Any]) -> Future[Any]:
    """Runs `job` in its own thread."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def crash() -> None:
    """For a failpoint: the process dies there."""
    raise Crash


def fail() -> None:
    """For a hook: the provider gives no answer."""
    raise UnknownOutcome("for the test")


def kinds_of(verdicts: Sequence[Verdict]) -> list[type]:
    """The classes of verdicts."""
    return [type(v) for v in verdicts]


def bring_to(state: str, world: ProviderWorld, order_id: str) -> None:
    """Puts an order's row into a state, as a process that did this work would have left it."""
    helper = world.process()
    kind = world.kind
    if state in ("done", "undone", "undoing"):
        assert kinds_of(helper.handle(ask(kind.good, order_id))) == [Done]
    if state == "undone":
        assert kinds_of(helper.handle(ask(kind.undo, order_id))) == [Done]
    if state == "refused":
        assert kinds_of(helper.handle(ask(kind.bad, order_id))) == [Done]
    if state in ("intended", "undoing"):
        failpoints.arm("intent.after", crash)
        with pytest.raises(Crash):
            helper.handle(ask(kind.good if state == "intended" else kind.undo, order_id))
        failpoints.disarm()
    assert world.row(order_id)[0] == state
    world.sql("DELETE FROM outbox WHERE order_id = %s", order_id)
