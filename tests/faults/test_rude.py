"""FAULTS row 15: clients that are slow or never finish delay nobody else, at any service."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import psutil
import pytest

from orderflow.routing import SERVICES
from tests.support.load import sizes
from tests.support.rude import KINDS as RUDE
from tests.support.rude import Rude, ask
from tests.support.system import KINDS, System

pytestmark = [
    pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("faults-system"), pytest.mark.row(15),
]  # fmt: skip

_QUIET: Final = 0.3
"""The most seconds that a customer waits, except one time in a hundred, if the machine has no other work."""


@pytest.mark.parametrize("count", sizes(20, 200))
@pytest.mark.parametrize("service", SERVICES)
def test_rude_clients_hold_up_nobody(system: System, service: str, count: int, measured: Callable[..., None]) -> None:
    """A number of each kind at one service, all the time: /healthz answers, orders are accepted and confirmed, neither
    threads nor memory grow with their number, and the server closes each in time."""
    port, process = system.ports[f"{service.upper()}_PORT"], psutil.Process(system.runtime.pid(service))
    worker = process.children()[0]
    system.until_terminal(*map(system.place, KINDS))  # a thread for each of its destinations, from then on
    before, files = worker.memory_info().rss, worker.num_fds()
    threads = worker.num_threads()
    waits: list[float] = []
    placed: list[str] = []
    with Rude(port, list(RUDE), count, stays=5) as rude:
        rude.all_open(60)
        for turn in range(200 if count == 200 else 30):
            began = time.monotonic()
            assert ask(port) == 200
            waits.append(time.monotonic() - began)
            if turn % 10 == 0:
                placed.append(system.place(KINDS[len(placed) % len(KINDS)]))
                assert rude.open["half a head"] > 0
            time.sleep(0.03)
        grown = (worker.memory_info().rss - before) / 2**20
        more = worker.num_threads() - threads
        assert set(system.until_terminal(*placed)) == {"CONFIRMED"}
        ended = {kind: len(times) for kind, times in rude.ended.items()}
    waits.sort()
    p99 = waits[len(waits) * 99 // 100]
    measured(
        p99_ms=round(p99 * 1000), slowest_ms=round(waits[-1] * 1000), grown_mb=round(grown), ended=sum(ended.values())
    )
    assert worker.is_running(), "it was not replaced"
    assert more <= 16, "its threads for requests, no more"
    assert grown < 64
    assert worker.num_fds() < files + 1000
    if count == 200:
        assert p99 <= _QUIET
    system.check(acknowledged=placed)
