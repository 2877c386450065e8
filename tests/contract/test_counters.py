"""What the processes of a service count is summed in its database, and never goes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orderflow import metrics
from orderflow.broker.memory import MemoryBroker
from orderflow.database import Database
from orderflow.errors import DatabaseUnavailable
from orderflow.messaging.outbox import Outbox
from orderflow.service import Service
from orderflow.settings import Role, Settings
from orderflow.telemetry.shared_counters import Counters
from orderflow.web import create_app
from tests.support.web import Nothing


@pytest.fixture
def database(new_database: Callable[[str | None], str]) -> Iterator[Database]:
    database = Database(new_database("inventory"), name="inventory")
    database.open()
    yield database
    database.close()


class Process:
    """One process's counters: what it has counted is set by hand."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counted: dict[str, float] = {}
        self._patch = monkeypatch
        self._counters = Counters(database)

    def __getattr__(self, name: str) -> Callable[[], dict[str, float]]:
        def call() -> dict[str, float]:
            self._patch.setattr(metrics, "snapshot", lambda: dict(self.counted))
            return getattr(self._counters, name)()

        return call


def test_any_process_tells_of_all(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was handed in, by whomever, and what the asked one hasn't yet; an ended one's counts stay."""
    web, worker = (Process(database, monkeypatch) for _ in range(2))
    web.counted = {'["a"]': 1.0}
    worker.counted = {'["a"]': 10.0, '["b", "x"]': 5.0}
    assert web.together() == {'["a"]': 1.0}
    worker.hand_in()
    assert web.together() == {'["a"]': 11.0, '["b", "x"]': 5.0}
    web.hand_in()
    web.counted = {'["a"]': 2.0}
    worker.counted |= {'["b", "x"]': 6.5}
    worker.hand_in()
    worker.hand_in()
    assert web.together() == {'["a"]': 12.0, '["b", "x"]': 6.5}
    restarted = Process(database, monkeypatch)
    assert restarted.together() == {'["a"]': 11.0, '["b", "x"]': 6.5}


def test_without_the_database_nothing_goes_back(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus would take a smaller count for a restart. What could not be handed in is handed in later."""
    process, other = (Process(database, monkeypatch) for _ in range(2))
    other.counted = {'["a"]': 7.0}
    other.hand_in()
    process.counted = {'["a"]': 1.0}
    assert process.together() == {'["a"]': 8.0}
    process.counted = {'["a"]': 2.0}
    process.hand_in()
    with pytest.MonkeyPatch.context() as away:

        def fail(*_: object) -> None:
            raise DatabaseUnavailable("away")

        away.setattr(database, "query", fail)
        process.counted = {'["a"]': 3.0}
        with pytest.raises(DatabaseUnavailable):
            process.hand_in()
        assert process.together() == {'["a"]': 10.0}
    process.hand_in()
    assert other.together() == {'["a"]': 10.0}


def test_processes_add_at_the_same_time(database: Database) -> None:
    """Nothing is lost, and nobody waits for somebody who waits for them."""
    counts = metrics.Counts("test_adding", "For this test", "what")
    try:
        processes = [Counters(database) for _ in range(4)]
        for i in range(50):
            counts[str(i),] += 1
        threads = [threading.Thread(target=process.hand_in) for process in processes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = metrics.by_family(Counters(database).together())["test_adding"]
        assert {labels: n - 1 for labels, n in found.items()} == {(str(i),): 4.0 for i in range(50)}
    finally:
        metrics.families.remove(counts)


def test_metrics_tells_what_a_worker_did(database: Database) -> None:
    """A worker has no port: the service's other processes tell of its messages, calls and times."""
    settings = Settings(aws_endpoint_url="http://127.0.0.1:1", orderflow_role=Role.WEB)
    key = ("WorkerTold", "done")
    worker = Counters(database)
    metrics.handled[key] += 3
    metrics.handling.observe(0.02)
    metrics.handling.observe(100)
    worker.hand_in()
    del metrics.handled[key]
    service = Service(settings, Nothing(), database, Outbox(database, lease=10), MemoryBroker())
    text = create_app(service, []).test_client().get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    handled = {tuple(s.labels.values()): s.value for s in families["orderflow_messages_handled"].samples}
    assert handled[key] == 3
    buckets = [s.value for s in families["orderflow_handling_seconds"].samples if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] >= buckets[-2] + 1
    assert "orderflow_consumer_silence_seconds" not in families, "a process without a consumer"
