"""The real embedded runtime: with its own home and free ports, beside whatever else runs on this machine."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from runtime import EmbeddedRuntime, RuntimeProblem
from runtime.embedded import leftovers
from tests.support import parts
from tests.support.aws import client
from tests.support.ports import free_ports
from tests.support.system import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("runtime")]

PARTS = {"postgres", "localstack", "order", "inventory", "payment", "shipping", "orchestrator"}


def states(system: EmbeddedRuntime) -> dict[str, str]:
    return {part.name: part.state for part in system.status()}


def all_ready(system: EmbeddedRuntime) -> bool:
    found = states(system)
    return found.keys() >= PARTS and set(found.values()) == {"ready"}


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    # LocalStack continues the long poll of a consumer that has ended, and delivers messages to it: keep polls short.
    return {**free_ports(), "LONG_POLL": "1"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]) -> Iterator[EmbeddedRuntime]:
    """One running system for the tests of this file; each leaves it ready."""
    runtime = EmbeddedRuntime(tmp_path_factory.mktemp("runtime") / "home", settings)
    try:
        runtime.up()
        yield runtime
    finally:
        runtime.reset()


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


@pytest.mark.parametrize("part", ["payment", "postgres"])
def test_what_is_killed_comes_back(system: EmbeddedRuntime, part: str) -> None:
    """kill -9 with all children: a new process, ready again."""
    killed = parts.kill(system, part)
    until(lambda: system.pid(part) not in (0, killed))
    until(lambda: all_ready(system))


def test_a_localstack_that_comes_back_empty_gets_its_stack(system: EmbeddedRuntime) -> None:
    """It keeps nothing across a restart; the stack is deployed again, its marker last."""
    sqs = client("sqs", system.plan.url("localstack"))
    sqs.create_queue(QueueName="made-by-hand")
    killed = parts.kill(system, "localstack")
    until(lambda: system.pid("localstack") not in (0, killed))
    until(lambda: all_ready(system))
    names = {url.rpartition("/")[2] for url in sqs.list_queues(QueueNamePrefix="orderflow-")["QueueUrls"]}
    assert {"orderflow-ready", "orderflow-order", "orderflow-payment-rule-dlq"} <= names
    assert "QueueUrls" not in sqs.list_queues(QueueNamePrefix="made-by-hand")


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


def test_a_changed_setting_restarts_the_services_only(system: EmbeddedRuntime, settings: dict[str, str]) -> None:
    """`up` on a running system shows old and new values; LocalStack and PostgreSQL keep running."""
    before = {name: system.pid(name) for name in PARTS}
    switched = EmbeddedRuntime(system.home.path, {**settings, "WORKFLOW_MODE": "orchestration"})
    assert switched.up() == {"WORKFLOW_MODE": ("choreography", "orchestration")}
    after = {name: system.pid(name) for name in PARTS}
    assert {name for name in PARTS if before[name] == after[name]} == {"localstack", "postgres"}
    assert switched.running_plan().workflow == "orchestration"
    assert system.up() == {"WORKFLOW_MODE": ("orchestration", "choreography")}


def test_a_setting_of_one_service_restarts_that_one_only(system: EmbeddedRuntime, settings: dict[str, str]) -> None:
    """Nothing else is disturbed."""
    before = {name: system.pid(name) for name in PARTS}
    EmbeddedRuntime(system.home.path, settings, {"shipping": {"LOG_LEVEL": "DEBUG"}}).up()
    assert {name for name in PARTS if before[name] != system.pid(name)} == {"shipping"}


def test_a_taken_port_stops_the_start_and_nothing_is_left(
    system: EmbeddedRuntime, tmp_path: Path, settings: dict[str, str]
) -> None:
    """The message names port, variable and process."""
    other = EmbeddedRuntime(tmp_path / "other", {**free_ports(), "SHIPPING_PORT": settings["SHIPPING_PORT"]})
    with pytest.raises(RuntimeProblem, match=rf"Port {settings['SHIPPING_PORT']} \(SHIPPING_PORT\) is taken by"):
        other.up()
    assert not other.running
    assert leftovers.find(other.home) == []
    other.reset()


def test_a_service_that_cannot_start_is_reported_and_rolled_back(tmp_path: Path) -> None:
    """With the last lines of its log; every other part is stopped again."""
    broken = EmbeddedRuntime(tmp_path / "broken", free_ports(), {"payment": {"VISIBILITY": "a lot"}})
    try:
        with pytest.raises(RuntimeProblem, match="payment ends as soon as it is started") as problem:
            broken.up()
        assert "VISIBILITY" in problem.value.what
        assert leftovers.find(broken.home) == []
    finally:
        broken.reset()


def test_the_rest_of_a_crashed_run_is_cleaned_up(system: EmbeddedRuntime) -> None:
    """kill -9 of the supervisor leaves orphans: the next `up` ends them and starts again, with the old data."""
    with psycopg.connect(system.env("order")["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    old = leftovers.find(system.home)
    assert "supervisor.supervisord" in old[0].cmdline()
    os.kill(old[0].pid, signal.SIGKILL)
    until(lambda: not system.running)
    reports: list[tuple[str, str, str]] = []
    system.up(lambda *report: reports.append(report))
    assert reports[0][1] == "cleaned"
    assert all_ready(system)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in old)
    with psycopg.connect(system.env("order")["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("DROP TABLE kept")


def test_down_leaves_nothing_and_keeps_the_data(system: EmbeddedRuntime) -> None:
    """Also a second time; `status` then says stopped. After a power cut PostgreSQL's pid may be another program's."""
    with psycopg.connect(system.env("order")["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    assert system.down()
    assert leftovers.find(system.home) == []
    assert set(states(system).values()) == {"stopped"}
    assert not system.down()
    data = system._postgres().data
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n")
    system.up()
    with psycopg.connect(system.env("order")["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("DROP TABLE kept")


def test_down_without_a_supervisor(system: EmbeddedRuntime) -> None:
    """Orphans are found by their environment and ended."""
    os.kill(leftovers.find(system.home)[0].pid, signal.SIGKILL)
    until(lambda: not system.running)
    assert system.down()
    assert leftovers.find(system.home) == []
