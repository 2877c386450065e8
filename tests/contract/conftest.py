"""What the tests of the two services that call a provider share, and those of AWS in two places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import httpx
import pytest

from orderflow import clock
from tests.support.aws_like import proxy
from tests.support.aws_like.places import HEARS, InMemory, Place, Proxied
from tests.support.aws_like.rules import Behaviour, Rules
from tests.support.buses import NAME, by_calls, moto
from tests.support.provider_kinds import PAYMENT, SHIPPING
from tests.support.provider_process import Process, ProviderWorld


@pytest.fixture(scope="module", params=[PAYMENT, SHIPPING], ids=lambda kind: kind.service)
def databases(request: pytest.FixtureRequest, new_database: Callable[[str | None], str]) -> Iterator[ProviderWorld]:
    found = ProviderWorld(request.param, new_database(request.param.service), new_database(None))
    yield found
    found.close()


@pytest.fixture
def world(databases: ProviderWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProviderWorld]:
    """Payment's world, then shipping's, where nothing waits yet; the processes in it end with the test. What waits is
    not due by chance before a test says so."""
    monkeypatch.setattr("orderflow.providers.calls.backoff", lambda tries: 60.0)
    databases.sql(f"DELETE FROM {databases.kind.table}_waiting")
    yield databases
    databases.stop_processes()


@pytest.fixture
def process(world: ProviderWorld) -> Process:
    """One process of the service."""
    return world.process()


@pytest.fixture
def order_id() -> str:
    """A new order."""
    return clock.new_id()


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    """moto's server, at this URL."""
    pytest.importorskip("moto.server", reason="moto's server is not installed: make install")
    with moto() as made:
        yield str(made._sqs.meta.endpoint_url)


@pytest.fixture(params=["memory", "proxy"])
def place(request: pytest.FixtureRequest) -> Iterator[Callable[..., Place]]:
    """Makes a place with these chances, and with nothing in its queues."""
    with ExitStack() as stack:

        def make(chances: Mapping[Behaviour, float], scale: float = 0) -> Place:
            rules = Rules(1, chances, scale=scale)
            if request.param == "memory":
                return InMemory(rules)
            emulator: str = request.getfixturevalue("emulator")
            httpx.post(f"{emulator}/moto-api/reset", trust_env=False)
            by_calls(emulator, NAME, [HEARS])
            return Proxied(rules, stack.enter_context(proxy.before(emulator, rules)))

        yield make
