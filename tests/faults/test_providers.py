"""FAULTS row 14: a provider is slow and fails from time to time; then it is unknown whether a charge took place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from orderflow.contracts import EventBus, Workflow
from tests.support.load import Load, sizes
from tests.support.processes import PROVIDERS, provider_calls
from tests.support.system import System, overridden, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("faults-system"), pytest.mark.row(14)]

FAULTY = {"error_rate": 0.05, "latency": 2}
MIX = ({}, {}, {}, {"postal_code": "00000"}, {"payment_method": "pm_card_declined"})
TERMINAL = 300.0


@pytest.fixture
def patient(system: System) -> Iterator[System]:
    """Waits for providers that take two seconds: with a shorter timeout, none of their answers would be in time."""
    with overridden(system, {service: {"PROVIDER_TIMEOUT": "3"} for service in PROVIDERS}):
        yield system
        for service in PROVIDERS:
            system.http.put(system.url(service, "/simulator/faults"), json={})


def failed(made: Counter[str]) -> int:
    """Attempts without an answer: each is followed by another attempt of the same call, or the call gets no answer."""
    return made["attempts"] - made["calls"] + made["unknown"]


def quickest(system: System, orders: list[str]) -> float:
    """Seconds that the quickest confirmed order took."""
    took = "SELECT min(updated_at - created_at) FROM orders WHERE id = ANY(%s::uuid[]) AND status = 'CONFIRMED'"
    return float(system.sql("order", took, orders)[0][0].total_seconds())


def needed(system: System) -> int:
    """The number of calls that all orders need: one for each intent, and one for its compensation."""
    count = "SELECT count(*) + count(*) FILTER (WHERE state = 'undone') FROM {}"
    tables = {"payment": "payments", "shipping": "shipments"}
    return sum(int(system.sql(service, count.format(table))[0][0]) for service, table in tables.items())


@pytest.mark.parametrize("orders", sizes(48, 400))
def test_slow_and_failing_now_and_then(
    patient: System,
    seed: int,
    kinds: tuple[tuple[Workflow, EventBus], ...],
    orders: int,
    measured: Callable[..., None],
) -> None:
    """One call in twenty ends without an answer, half of these after it took effect; each takes two seconds. Every
    order ends, nobody pays twice, and the providers are called hardly more often than necessary."""
    system = patient
    for service in PROVIDERS:
        assert system.http.put(system.url(service, "/simulator/faults"), json=FAULTY).status_code == 200
    before, due = provider_calls(system), needed(system)
    with Load(system, kinds, rate=4, total=orders, seed=seed, mix=MIX) as load:
        taken = load.finish()
    system.until_terminal(*taken, seconds=TERMINAL)
    while failed(provider_calls(system) - before) == 0:  # by chance, in one small run of a hundred: the run continues
        more = [system.place(kind) for kind in kinds]
        system.until_terminal(*more, seconds=TERMINAL)
        taken += more
    system.check(acknowledged=taken)
    system.no_dead_letters()
    made, calls = provider_calls(system) - before, needed(system) - due
    per_call = made["attempts"] / calls
    measured(calls=calls, attempts=made["attempts"], per_call=round(per_call, 3))
    assert failed(made) > 0, "some attempts failed"
    assert quickest(system, taken) >= 2 * FAULTY["latency"], "both providers are slow"
    assert per_call <= 1.2


@pytest.mark.extra
def test_unknown_before_and_after_the_charge(
    system: System, kinds: tuple[tuple[Workflow, EventBus], ...], measured: Callable[..., None]
) -> None:
    """The provider gives no answer twice, first before it took the money, then after. Called a third time under the
    same key, it says that it took the money, and it did so once."""
    orders = [system.place(kind, payment_method="pm_card_timeout") for kind in kinds for _ in range(2)]
    assert set(system.until_terminal(*orders, seconds=TERMINAL)) == {"CONFIRMED"}
    keys = [f"{order_id}:charge" for order_id in orders]
    attempts = system.sql("providers", "SELECT attempts FROM idempotency_keys WHERE key = ANY(%s)", keys)
    measured(orders=len(orders), attempts=sum(n for (n,) in attempts))
    assert attempts == [(3,)] * len(orders)
    assert [system.ledger(order_id) for order_id in orders] == [["charge", "shipment"]] * len(orders)
    system.check(acknowledged=orders)


def test_a_provider_is_out_of_order(
    patient: System, kinds: tuple[tuple[Workflow, EventBus], ...], measured: Callable[..., None]
) -> None:
    """The provider doesn't answer for a while: calls wait in the database, and the queue and the dead-letter queue are
    empty. Afterwards every order ends."""
    system = patient
    for service in PROVIDERS:
        assert system.http.put(system.url(service, "/simulator/faults"), json={"outage": True}).status_code == 200
    before = provider_calls(system)
    orders = [system.place(kind) for kind in kinds]
    waiting = "SELECT count(*) FROM payments_waiting WHERE order_id = ANY(%s::uuid[])"
    until(lambda: system.sql("payment", waiting, orders)[0][0] == len(orders), what=lambda: provider_calls(system))
    until(lambda: system.depth("payment") == 0)
    assert not any(system.ledger(order_id) for order_id in orders)
    for service in PROVIDERS:
        system.http.put(system.url(service, "/simulator/faults"), json={})
    ended = Counter(system.until_terminal(*orders, seconds=TERMINAL))
    measured(unknown=(provider_calls(system) - before)["unknown"], **{status.lower(): n for status, n in ended.items()})
    assert ended.keys() <= {"CONFIRMED", "CANCELLED"}
    system.check(acknowledged=orders)
    system.no_dead_letters()
