"""The circuit breaker of a destination, by a clock that is moved."""

from __future__ import annotations

import pytest

from orderflow.messaging.circuit import Circuit, back_off


def test_it_opens_at_a_failure_and_closes_when_something_is_taken() -> None:
    """Closed → open → half-open (its retry time has come) → closed."""
    circuit = Circuit()
    assert circuit.closed
    circuit = circuit.failed(100.0)
    assert not circuit.closed
    assert circuit.retry_at is not None
    assert 100.1 <= circuit.retry_at <= 100.5
    assert circuit.succeeded() == Circuit()


def test_each_failure_may_wait_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to ten seconds, however many there were; after a success it begins anew."""
    monkeypatch.setattr("orderflow.messaging.circuit.random.uniform", lambda shortest, longest: longest)
    circuit, waits = Circuit(), []
    for _ in range(8):
        circuit = circuit.failed(0.0)
        waits.append(circuit.retry_at)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert circuit.succeeded().failed(0.0).retry_at == 0.5
    assert back_off(10**6, 60.0) == 60.0


def test_those_who_failed_together_do_not_come_back_together() -> None:
    """Full jitter: waits spread over the whole of what they may be."""
    waits = sorted(back_off(10) for _ in range(1000))
    assert waits[0] >= 0.1
    assert waits[-1] <= 10.0
    assert waits[100] < 3.0 < 7.0 < waits[900]


def test_what_is_held_does_not_count_as_a_failure() -> None:
    """The broker as a whole was not ready: the destination has said nothing."""
    held = Circuit(failures=2).held(5.0, 0.5)
    assert (held.failures, held.retry_at, held.closed) == (2, 5.5, False)
