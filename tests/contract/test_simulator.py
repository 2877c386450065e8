"""The simulated providers keep to the providers' rules, and their ledger tells exactly what happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from orderflow import clock
from orderflow.contracts import Address, Item
from orderflow.errors import ConfigurationError, UnknownOutcome
from orderflow.providers import Refused, Success, Voided
from services.payment.provider import TRADE as PAYMENTS
from services.payment.provider import SimulatedPayments
from services.shipping.provider import TRADE as SHIPMENTS
from services.shipping.provider import SimulatedCarrier
from simulator import Faults
from simulator.ledger import Ledger

TIMEOUT = 0.5


@pytest.fixture(scope="module")
def url(new_database: Callable[[str | None], str]) -> str:
    return new_database(None)


@pytest.fixture(scope="module")
def ledger(url: str) -> Iterator[Ledger]:
    found = Ledger(url, timeout=TIMEOUT, size=16)
    found.open(10)
    yield found
    found.close()


@pytest.fixture
def payments(ledger: Ledger) -> Iterator[SimulatedPayments]:
    provider = SimulatedPayments(PAYMENTS, ledger, timeout=TIMEOUT, key_life=3600)
    yield provider
    provider.faults.set(Faults())


@pytest.fixture
def carrier(ledger: Ledger) -> SimulatedCarrier:
    return SimulatedCarrier(SHIPMENTS, ledger, timeout=TIMEOUT, key_life=3600)


@pytest.fixture
def order_id() -> str:
    return clock.new_id()


def charge(payments: SimulatedPayments, order_id: str, card: str = "pm_card_visa") -> Success | Refused:
    return payments.charge(f"{order_id}:charge", order_id, 3998, "EUR", card)


def book(carrier: SimulatedCarrier, order_id: str, postal_code: str) -> Success | Refused:
    address = Address(name="Ada", line1="1 Main St", city="Berlin", postal_code=postal_code, country="DE")
    return carrier.book(f"{order_id}:shipment", order_id, [Item(sku="BOOK-1", quantity=2)], address)


def test_a_charge_is_one_entry(payments: SimulatedPayments, order_id: str) -> None:
    """With its amount, currency, order and key; known by its key."""
    answer = charge(payments, order_id)
    [entry] = payments.entries(order_id, 10)
    assert answer == Success(entry.id) == payments.lookup(f"{order_id}:charge")
    assert (entry.order_id, entry.kind, entry.amount, entry.currency) == (order_id, "charge", 3998, "EUR")
    assert entry.idempotency_key == f"{order_id}:charge"


@pytest.mark.parametrize(
    ("card", "reason"), [("pm_card_declined", "card declined"), ("4242424242424242", "unknown payment method")]
)
def test_other_cards_are_declined(payments: SimulatedPayments, order_id: str, card: str, reason: str) -> None:
    """Nothing is charged, and the reason doesn't repeat the card."""
    assert charge(payments, order_id, card) == Refused(reason)
    assert payments.entries(order_id, 10) == []


def test_a_key_charges_once(payments: SimulatedPayments, order_id: str) -> None:
    """Sixteen at once: one charge, one answer."""
    with ThreadPoolExecutor(16) as pool:
        answers = set(pool.map(lambda _: charge(payments, order_id), range(16)))
    assert len(answers) == len(payments.entries(order_id, 100)) == 1


def test_a_forgotten_key_charges_again(ledger: Ledger, order_id: str) -> None:
    """That is why nobody may ask so late: the oracle would see it."""
    payments = SimulatedPayments(PAYMENTS, ledger, timeout=TIMEOUT, key_life=0)
    assert charge(payments, order_id) != charge(payments, order_id)
    assert [entry.kind for entry in payments.entries(order_id, 10)] == ["charge", "charge"]


def test_a_void_gives_back_once(payments: SimulatedPayments, order_id: str) -> None:
    """Repeated, it answers the same."""
    done = charge(payments, order_id)
    first, second = (payments.void(f"{order_id}:charge", order_id) for _ in range(2))
    assert first == second == Voided(done.reference, 3998, "EUR")
    refund, charged = payments.entries(order_id, 10)
    assert (charged.kind, refund.kind, refund.amount) == ("charge", "refund", 3998)
    assert refund.idempotency_key == f"{order_id}:refund"
    assert payments.lookup(f"{order_id}:charge") is None


def test_a_voided_key_never_charges(payments: SimulatedPayments, order_id: str) -> None:
    """Neither a fresh one nor one that had been charged."""
    assert payments.void(f"{order_id}:charge", order_id) == Voided()
    assert isinstance(charge(payments, order_id), Refused)
    assert isinstance(charge(payments, order_id, "pm_card_timeout"), Refused)
    assert payments.entries(order_id, 10) == []


def test_a_charge_and_its_void_take_turns(payments: SimulatedPayments) -> None:
    """Whoever is first, nothing stays charged afterwards."""
    orders = [clock.new_id() for _ in range(40)]
    with ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(job, payments, o) for o in orders for job in (charge, _void)]
        [job.result() for job in jobs]
    for order_id in orders:
        kinds = sorted(entry.kind for entry in payments.entries(order_id, 10))
        assert kinds in ([], ["charge", "refund"])
        assert isinstance(charge(payments, order_id), Refused)


def _void(payments: SimulatedPayments, order_id: str) -> Voided:
    return payments.void(f"{order_id}:charge", order_id)


def test_the_timeout_card(ledger: Ledger, order_id: str) -> None:
    """No answer before the charge, no answer after it, then the answer; counted in the database, so by whatever
    process."""
    counted = []
    for attempt in range(3):
        payments = SimulatedPayments(PAYMENTS, ledger, timeout=0.05, key_life=3600)
        began = time.monotonic()
        if attempt < 2:
            with pytest.raises(UnknownOutcome):
                charge(payments, order_id, "pm_card_timeout")
            assert time.monotonic() - began >= 0.05
        else:
            assert charge(payments, order_id, "pm_card_timeout") == payments.lookup(f"{order_id}:charge")
        counted.append(len(payments.entries(order_id, 10)))
    assert counted == [0, 1, 1]


def test_the_carrier_goes_by_postal_code(carrier: SimulatedCarrier) -> None:
    """10115 is delivered, 00000 is not, 99999 takes its time; no money in the ledger."""
    good, bad, slow = (clock.new_id() for _ in range(3))
    assert isinstance(book(carrier, good, "10115"), Success)
    assert book(carrier, bad, "00000") == Refused("undeliverable address")
    began = time.monotonic()
    assert isinstance(book(carrier, slow, "99999"), Success)
    assert time.monotonic() - began >= TIMEOUT / 2
    assert [(e.kind, e.amount) for e in carrier.entries(good, 10)] == [("shipment", None)]
    assert carrier.void(f"{good}:shipment", good).reference is not None
    assert [e.kind for e in carrier.entries(good, 10)] == ["cancellation", "shipment"]


class TestFaults:
    def test_all_processes_see_them(self, payments: SimulatedPayments, url: str, order_id: str) -> None:
        """They are stored with the provider, and with this one only."""
        payments.faults.set(Faults(outage=True))
        elsewhere = Ledger(url, timeout=TIMEOUT, size=1)
        elsewhere.open(10)
        twin = SimulatedPayments(PAYMENTS, elsewhere, timeout=TIMEOUT, key_life=3600)
        carrier = SimulatedCarrier(SHIPMENTS, elsewhere, timeout=TIMEOUT, key_life=3600)
        with pytest.raises(UnknownOutcome):
            charge(twin, order_id)
        with pytest.raises(UnknownOutcome):
            charge(twin, order_id, "pm_card_declined")
        assert isinstance(book(carrier, order_id, "10115"), Success)
        elsewhere.close()
        assert payments.entries(order_id, 10) == []

    def test_errors_come_before_and_after_the_effect(self, payments: SimulatedPayments) -> None:
        """About as many as asked for, half of them after the charge took place."""
        payments.faults.set(Faults(error_rate=0.5))
        payments.faults.random.seed(7)
        lost = charged = 0
        for order_id in (clock.new_id() for _ in range(100)):
            try:
                charge(payments, order_id)
            except UnknownOutcome:
                lost += 1
                charged += len(payments.entries(order_id, 10))
        assert 35 <= lost <= 65
        assert 0.3 <= charged / lost <= 0.7

    def test_latency_below_the_timeout_only_delays(self, payments: SimulatedPayments, order_id: str) -> None:
        """The answer comes."""
        payments.faults.set(Faults(latency=0.1))
        began = time.monotonic()
        assert isinstance(charge(payments, order_id), Success)
        assert time.monotonic() - began >= 0.1

    def test_latency_above_the_timeout_loses_the_answer(self, payments: SimulatedPayments, order_id: str) -> None:
        """The caller hears nothing within its timeout, but was charged."""
        payments.faults.set(Faults(latency=60))
        began = time.monotonic()
        with pytest.raises(UnknownOutcome):
            charge(payments, order_id)
        assert TIMEOUT <= time.monotonic() - began < 5
        assert [entry.kind for entry in payments.entries(order_id, 10)] == ["charge"]


def test_a_database_that_is_unavailable_is_no_answer(order_id: str) -> None:
    """It is no failure of the message either."""
    away = Ledger("postgresql://nobody@127.0.0.1:1/none", timeout=0.05, size=1)
    payments = SimulatedPayments(PAYMENTS, away, timeout=0.05, key_life=3600)
    with pytest.raises(UnknownOutcome):
        charge(payments, order_id)
    away.close()


def test_the_simulator_needs_its_own_database() -> None:
    """The error names the setting."""
    with pytest.raises(ConfigurationError, match="PROVIDERS_DATABASE_URL"):
        Ledger("", timeout=1, size=1)
