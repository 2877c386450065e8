"""The real embedded runtime: with its own home and free ports, beside whatever else runs on this machine."""

from __future__ import annotations

import json

import psutil
import psycopg
import pytest

from runtime import EmbeddedRuntime
from runtime.embedded import leftovers
from tests.integration.conftest import Crash
from tests.support import parts
from tests.support.aws import client
from tests.support.engine import provider
from tests.support.system import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("runtime")]

PARTS = {"postgres", "localstack", "order", "inventory", "payment", "shipping", "orchestrator"}


def states(system: EmbeddedRuntime) -> dict[str, str]:
    return {part.name: part.state for part in system.status()}


def all_ready(system: EmbeddedRuntime) -> bool:
    found = states(system)
    return found.keys() >= PARTS and set(found.values()) == {"ready"}


@pytest.fixture
def system(as_set: EmbeddedRuntime) -> EmbeddedRuntime:
    """A running system, with its own settings."""
    if provider() != "embedded":
        pytest.skip("another runtime")
    until(lambda: all_ready(as_set))
    return as_set


def test_up_returns_when_every_part_is_ready(system: EmbeddedRuntime) -> None:
    """A second call says that nothing changed."""
    assert all_ready(system)
    assert system.up() == {}


def test_everything_listens_on_loopback_only(system: EmbeddedRuntime) -> None:
    """LocalStack and PostgreSQL too."""
    pids = {p.pid for p in leftovers.find(system.home)}
    addresses = {c.laddr.ip for c in psutil.net_connections("inet") if c.pid in pids and c.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}
    datagrams = [c for c in psutil.net_connections("udp") if c.pid in pids and c.laddr.ip != "127.0.0.1"]
    assert datagrams == [], "no DNS server"


def test_a_role_reaches_its_own_database_only(system: EmbeddedRuntime) -> None:
    """Services share no table, and can't."""
    url = system.env("payment")["DATABASE_URL"]
    psycopg.connect(url).close()
    with pytest.raises(psycopg.OperationalError, match="pg_hba"):
        psycopg.connect(url.removesuffix("payment") + "order")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(url.replace("orderflow_payment:", "orderflow_payment:wrong"))


def test_nothing_of_the_callers_aws_reaches_a_service(system: EmbeddedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile or key in the shell must never be used."""
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "real")
    environment = system.env("order")
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & environment.keys()
    assert environment["AWS_ACCESS_KEY_ID"] == "test"


def test_the_rest_of_a_crashed_run_is_cleaned_up(system: EmbeddedRuntime, crash: Crash) -> None:
    """kill -9 of the supervisor leaves orphans: the next `up` ends them and starts again, with the old data. After a
    power cut PostgreSQL's pid may be another program's."""
    assert "supervisor.supervisord" in crash.supervisor
    assert len(crash.left) > 3, "supervisor, server and service"
    assert crash.reports[0][1] == "cleaned"
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in crash.left)
    with psycopg.connect(system.env("order")["DATABASE_URL"], autocommit=True) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == ("kept",)


@pytest.mark.parametrize("part", ["payment", "postgres"])
def test_what_is_killed_comes_back(system: EmbeddedRuntime, part: str) -> None:
    """kill -9 with all children: a new process, ready again."""
    killed = parts.kill(system, part)
    until(lambda: system.pid(part) not in (0, killed))
    until(lambda: all_ready(system))


def test_topic_and_bus_put_the_envelope_itself_into_the_queue(system: EmbeddedRuntime) -> None:
    """By whichever bus an event comes, the consumer reads the same body; events that a service doesn't listen to never
    arrive."""
    sqs, sns, events = (client(name, system.plan.url("localstack")) for name in ("sqs", "sns", "events"))
    parts.stop(system, "inventory")  # or it would take them
    try:
        queue = sqs.get_queue_url(QueueName="orderflow-inventory")["QueueUrl"]
        topic = sns.create_topic(Name="orderflow-events")["TopicArn"]
        for name, way in (
            ("OrderPlaced", "sns"),
            ("OrderPlaced", "bus"),
            ("StockReleased", "sns"),
            ("StockReleased", "bus"),
        ):
            kind = f"orderflow.{name}.v1"
            body = json.dumps({"id": f"{name}-{way}", "type": kind, "workflow": "choreography"})
            if way == "sns":
                attributes = {"type": kind, "workflow": "choreography"}
                sns.publish(TopicArn=topic, Message=body, MessageAttributes={
                    key: {"DataType": "String", "StringValue": value} for key, value in attributes.items()
                })  # fmt: skip
            else:
                entry = {"EventBusName": "orderflow", "Source": "orderflow", "DetailType": kind, "Detail": body}
                assert events.put_events(Entries=[entry])["FailedEntryCount"] == 0
        got: set[str] = set()

        def both() -> bool:
            answer = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=1, MaxNumberOfMessages=10)
            for message in answer.get("Messages", ()):
                got.add(json.loads(message["Body"])["id"])
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            return {"OrderPlaced-sns", "OrderPlaced-bus"} <= got

        until(both)
        assert got == {"OrderPlaced-sns", "OrderPlaced-bus"}
    finally:
        parts.start(system, "inventory")
        until(lambda: all_ready(system))
