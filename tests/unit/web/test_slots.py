"""A request that hangs holds no thread that others need."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from orderflow.looks import Looks
from orderflow.service import Service
from orderflow.settings import Settings
from orderflow.web import dead_letters
from services.order.queries import Reading, SagaView
from tests.support.web import client_of

THREADS = 8


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as made:
        yield made


def test_requests_that_may_wait_long_hold_a_quarter_of_the_threads(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is told to come again, and brief ones are answered; when they are done there is room again."""
    arrived, opened = threading.Semaphore(0), threading.Event()

    def hang(*_: Any) -> Any:
        arrived.release()
        assert opened.wait(30)
        return [], True

    monkeypatch.setattr(dead_letters.DeadLetters, "look", hang)
    monkeypatch.setattr(dead_letters.DeadLetters, "depths", lambda _: {})
    client = client_of(web_threads=THREADS)
    app = client.application
    hanging = [pool.submit(lambda: app.test_client().get("/dlq").status_code) for _ in range(THREADS // 4)]
    for _ in hanging:
        assert arrived.acquire(timeout=30)
    refused = client.get("/dlq")
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    assert client.get("/healthz").status_code == 200
    opened.set()
    assert [future.result(30) for future in hanging] == [200] * len(hanging)
    assert client.get("/dlq").status_code == 200


def test_a_probe_waits_for_a_moment_only(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """All who ask share one look at a broker that hangs; it is not ready meanwhile."""
    looked, opened = list[int](), threading.Event()

    def hang(_: Service) -> dict[str, str]:
        looked.append(1)
        assert opened.wait(30)
        return {}

    monkeypatch.setattr(Service, "not_ready", hang)
    monkeypatch.setattr("orderflow.web.common_routes._PATIENCE", 0.05)
    app = client_of().application
    asked = [pool.submit(lambda: app.test_client().get("/readyz").status_code) for _ in range(THREADS)]
    assert [future.result(30) for future in asked] == [503] * THREADS
    assert looked == [1]
    opened.set()
    while (client := app.test_client()).get("/readyz").status_code != 200:
        pass
    assert client.get("/readyz").json == {"status": "ready", "service": "inventory"}


def test_a_look_that_fails_found_nothing() -> None:
    """And the next is a new one."""
    answers = iter([1])
    looks = Looks("test", lambda: next(answers), 30)
    assert looks.ask() == 1
    threading.excepthook, before = lambda _: None, threading.excepthook
    try:
        assert looks.ask() is None
    finally:
        threading.excepthook = before


def test_one_timeline_at_a_time_waits_for_a_silent_orchestrator(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are answered without it at once; when it answers again, all ask it."""
    settings = Settings(aws_endpoint_url="http://memory", orchestrator_url="http://orchestrator")
    reading = Reading(settings, cast(Any, None))
    asked: list[str] = []
    asking, opened = threading.Event(), threading.Event()
    answers: list[Any] = [None]

    def ask(url: str) -> SagaView | None:
        asked.append(url)
        if len(asked) == 2:
            asking.set()
            assert opened.wait(30)
        return cast("SagaView | None", answers[-1])

    monkeypatch.setattr(reading, "_ask", ask)
    monkeypatch.setattr("services.order.queries._SILENT", 60.0)
    assert reading._saga("1") is None
    probing = pool.submit(reading._saga, "2")
    assert asking.wait(30)
    assert [reading._saga(str(n)) for n in range(10)] == [None] * 10
    assert len(asked) == 2
    answers.append(SagaView(log=[], waiting_for=None))
    opened.set()
    assert probing.result(30) is not None
    assert reading._saga("3") is not None
