"""`docker compose up --scale payment-worker=2`: workers share a service's queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import container_parts
from tests.support.containers import ContainerSystem
from tests.support.system import KINDS, until


@pytest.fixture
def workers(system: ContainerSystem) -> Iterator[list[str]]:
    """Two workers of payment, which are gone afterwards."""
    container_parts.scale(system.runtime, "payment-worker", 2)
    yield ["payment-worker-1", "payment-worker-2"]
    container_parts.scale(system.runtime, "payment-worker", 0)
    until(lambda: not any(c.service == "payment-worker" for c in system.runtime.containers()))


def test_workers_do_the_work_without_a_port(system: ContainerSystem, workers: list[str]) -> None:
    """With payment's own process stopped, they charge: every order is confirmed, and each is charged once."""
    parts = {part.name: part for part in system.runtime.status()}
    assert [parts[name].state for name in workers] == ["ready", "ready"]
    containers = [c for c in system.runtime.containers() if c.service == "payment-worker"]
    assert all(not c.ports for c in containers)
    container_parts.stop(system.runtime, "payment")
    try:
        placed = [system.place(kind) for kind in KINDS for _ in range(3)]
        assert set(system.until_terminal(*placed)) == {"CONFIRMED"}
    finally:
        system.restart("payment")
    for order_id in placed:
        assert [entry["kind"] for entry in system.ledger_entries("payment", order_id)] == ["charge"]
    system.check()
