"""Both providers of the infrastructure for tests keep the same contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from orderflow.routing import SERVICES
from runtime.probe import answers
from tests.support.aws import client
from tests.support.engine import need_engine, provider
from tests.support.infrastructure import Infrastructure, infrastructure

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module", params=["embedded", "containers"])
def around(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Infrastructure]:
    if request.param == "containers":
        need_engine()
    with infrastructure(tmp_path_factory.mktemp("infrastructure"), request.param) as made:
        yield made


def sqs(around: Infrastructure) -> Any:
    return client("sqs", around.broker_url)


def queues(around: Infrastructure) -> set[str]:
    return {url.rpartition("/")[2] for url in sqs(around).list_queues().get("QueueUrls", ())}


def test_the_stack_is_whole(around: Infrastructure) -> None:
    """A queue a service, and the marker that is made last."""
    assert {f"orderflow-{service}" for service in SERVICES} | {"orderflow-ready"} <= queues(around)


def test_each_role_has_its_own_database(around: Infrastructure) -> None:
    """And reaches no other."""
    assert set(around.database_urls) == {*SERVICES, "providers"}
    for url in around.database_urls.values():
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TEMPORARY TABLE own (id int)")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(around.database_urls["payment"].replace("/orderflow_payment", "/orderflow_order"))


def test_a_killed_localstack_comes_back_empty_with_its_stack(around: Infrastructure) -> None:
    """As one that has lost everything must be got over."""
    sqs(around).create_queue(QueueName="made-by-hand")
    around.kill("localstack")
    found = queues(around)
    assert "orderflow-ready" in found
    assert "made-by-hand" not in found


def test_a_killed_postgres_keeps_what_was_committed(around: Infrastructure) -> None:
    """At the same address."""
    url = around.database_urls["order"]
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    around.kill("postgres")
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE kept")


def test_stopped_stays_down_until_it_is_started(around: Infrastructure) -> None:
    """Nothing answers meanwhile."""
    around.stop("postgres")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(around.database_urls["order"], connect_timeout=2)
    around.start("postgres")
    psycopg.connect(around.database_urls["order"]).close()


def test_spans_have_somewhere_to_go(around: Infrastructure) -> None:
    """Jaeger answers, or its absence is said."""
    if around.jaeger_url is None:
        assert around.otlp_url is None
        pytest.skip("no `jaeger` on PATH")
    assert answers(f"{around.jaeger_url}/api/services")


def test_the_variable_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is checked; nothing is asked of Docker unless it says so."""
    monkeypatch.delenv("ORDERFLOW_TEST_INFRA", raising=False)
    assert provider() == "embedded"
    for name in ("embedded", "containers"):
        monkeypatch.setenv("ORDERFLOW_TEST_INFRA", name)
        assert provider() == name
    monkeypatch.setenv("ORDERFLOW_TEST_INFRA", "pigeons")
    with pytest.raises(ValueError, match="embedded, containers"):
        provider()
