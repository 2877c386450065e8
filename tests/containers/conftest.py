"""One system in containers for all tests of this folder: the real compose file, a project and ports of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from runtime import ContainerRuntime
from tests.support.containers import ContainerSystem
from tests.support.engine import need_engine
from tests.support.ports import free_ports

SETTINGS = {
    # LocalStack continues the long poll of a consumer that has ended, and delivers messages to it: keep that short.
    "LONG_POLL": "1",
    # What was in flight in a killed consumer becomes visible again after this.
    "VISIBILITY": "10",
    "HEARTBEAT": "3",
    # What it was sending, another one sends after this.
    "LEASE": "4",
    "RESEND_AFTER": "5,10,20",
    "UNDO_RESEND_EVERY": "5",
    # Far beyond what a busy machine needs: here an order is undone for its outcome, never for being late.
    "UNDO_AFTER": "300",
    "PROVIDER_TIMEOUT": "5",
    "ORDERFLOW_IMAGE_TAG": "test",
    "OTEL_TRACES_SAMPLER": "parentbased_always_on",
}
"""What the tests change. The workflow and the bus are named with each order."""


@pytest.fixture(scope="session")
def settings() -> dict[str, str]:
    need_engine()
    return {**free_ports(), **SETTINGS, "COMPOSE_PROJECT_NAME": f"orderflow-test-{os.getpid()}"}


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]) -> Iterator[ContainerSystem]:
    """Up from the compose file; nothing is left of it. Each test leaves it whole."""
    runtime = ContainerRuntime(tmp_path_factory.mktemp("containers") / "home", settings)
    try:
        runtime.up()
        made = ContainerSystem(runtime)
        for provider in ("payment", "shipping"):
            made.get(provider, "/simulator/ledger")  # makes its tables, which the oracle reads
        yield made
        made.close()
    finally:
        runtime.reset()


@pytest.fixture(autouse=True)
def _whole(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "system" in request.fixturenames:
        made: ContainerSystem = request.getfixturevalue("system")
        made.until_ready()
