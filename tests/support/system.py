"""A real system for tests: the embedded runtime, on its own ports and in its own home, with the tests' verbs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
from botocore.config import Config

from orderflow.contracts import EventBus, Workflow
from orderflow.routing import SERVICES, TABLE
from runtime import EmbeddedRuntime
from tests.support.aws import client
from tests.support.bodies import order_body
from tests.support.cleaning import clean
from tests.support.engine import need_engine, provider
from tests.support.oracle import RESTING, complaints
from tests.support.ports import free_ports

KINDS: Final = tuple((workflow, bus) for workflow in TABLE for bus in EventBus)
"""Every built workflow over every bus."""

PATIENCE: Final = 120.0
"""Seconds that tests wait for what should take one or two, on a machine that others use too."""

FAULTS: Final = {
    # LocalStack continues the long poll of a consumer that has ended, and delivers messages to it: keep polls short.
    "LONG_POLL": "1",
    "VISIBILITY": "10",
    "HEARTBEAT": "3",
    "LEASE": "4",
    "PROVIDER_TIMEOUT": "1",
    "RESEND_AFTER": "8,16,30",
    "UNDO_RESEND_EVERY": "8",
    "WEB_THREADS": "16",
}
"""Settings with times short enough for fault tests."""

_LOOK_EVERY: Final = 0.1


def kind_id(kind: tuple[Workflow, EventBus]) -> str:
    """`hybrid-sns`, for a test's name."""
    return f"{kind[0].value}-{kind[1].value}"


def until(condition: Callable[[], Any], seconds: float = PATIENCE, what: Callable[[], Any] = lambda: "") -> Any:
    """Polls until `condition()` is true and returns its value; fails with `what()` after `seconds`."""
    ends = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < ends, f"not so after {seconds:.0f} s: {what()}"
        time.sleep(_LOOK_EVERY)
    return value


class System:
    """A running system: its HTTP APIs, its databases and its broker."""

    def __init__(self, runtime: EmbeddedRuntime) -> None:
        self.runtime = runtime
        self.http = httpx.Client(timeout=30, trust_env=False)
        self.ports = runtime.plan.ports
        self.databases = self._database_urls()
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=30)
        self._aws = {
            name: client(name, self.url("localstack"), config=config)
            for name in ("sqs", "sns", "events", "stepfunctions")
        }

    def _database_urls(self) -> dict[str, str]:
        """Connection URLs, by service, and that of the `providers`."""
        urls = {service: self.runtime.env(service)["DATABASE_URL"] for service in SERVICES}
        return urls | {"providers": self.runtime.env("payment")["PROVIDERS_DATABASE_URL"]}

    def url(self, part: str, path: str = "") -> str:
        return f"http://127.0.0.1:{self.ports[f'{part.upper()}_PORT']}{path}"

    def aws(self, service: str) -> Any:
        """A client of the broker: sqs, sns, events or stepfunctions."""
        return self._aws[service]

    # Orders

    def post(self, body: Any, **headers: str) -> httpx.Response:
        """POST /orders with `body` as JSON."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(self.url("order", "/orders"), json=body, headers=names)

    def place(self, kind: tuple[Workflow, EventBus] | None = None, **changes: Any) -> str:
        """Places an order, of this workflow and bus or of the system's, and returns its id."""
        if kind:
            changes |= {"workflow": kind[0].value, "event_bus": kind[1].value}
        answer = self.post(order_body(**changes))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def get(self, service: str, path: str) -> Any:
        """The JSON of a GET that must succeed."""
        answer = self.http.get(self.url(service, path))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def order(self, order_id: str) -> Any:
        return self.get("order", f"/orders/{order_id}")

    def timeline(self, order_id: str) -> Any:
        return self.get("order", f"/orders/{order_id}/timeline")

    def cancel(self, order_id: str) -> int:
        """The status code of a customer's cancellation."""
        return self.http.post(self.url("order", f"/orders/{order_id}/cancel")).status_code

    def ledger(self, order_id: str) -> list[str]:
        """The providers' ledger entries of an order, oldest first."""
        kinds = self.sql("providers", "SELECT kind FROM ledger WHERE order_id = %s ORDER BY at", order_id)
        return [kind for (kind,) in kinds]

    def until_terminal(self, *order_ids: str, seconds: float = PATIENCE) -> list[str]:
        """The statuses of orders, once all are CONFIRMED, CANCELLED or NEEDS_ATTENTION."""

        def statuses() -> dict[str, str]:
            found = self.sql("order", "SELECT id::text, status FROM orders WHERE id = ANY(%s::uuid[])", list(order_ids))
            return dict(found)

        def all_rest() -> bool:
            found = statuses()
            return all(found.get(i) in RESTING | {"NEEDS_ATTENTION"} for i in order_ids)

        until(all_rest, seconds, lambda: {i: self.story(i) for i, s in statuses().items() if s not in RESTING})
        found = statuses()
        return [found[i] for i in order_ids]

    def story(self, order_id: str) -> list[str]:
        """What the databases know about an order, for a failure's message."""
        lines = self.sql(
            "order", "SELECT service, type, note FROM order_log WHERE order_id = %s ORDER BY seq", order_id
        )
        state = self.sql("order", "SELECT status, facts, sends, reason FROM orders WHERE id = %s", order_id)
        saga = self.sql("orchestrator", "SELECT state, open_type, sends FROM sagas WHERE order_id = %s", order_id)
        return [f"{s}:{t}{' ' + n if n else ''}" for s, t, n in lines] + [f"order {state}", f"saga {saga}"]

    # State

    def sql(self, database: str, statement: str, *parameters: Any) -> list[Any]:
        """Runs a statement on a service's database, or that of the `providers`, from outside."""
        with self._connected(database) as connection:
            assert not statement.startswith("SELECT FROM"), "psycopg returns no rows without columns"
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def _connected(self, database: str) -> psycopg.Connection[Any]:
        """A connection; waits for a server that a test has killed and that is restarting."""
        ends = time.monotonic() + PATIENCE / 4
        while True:
            try:
                return psycopg.connect(self.databases[database], autocommit=True, connect_timeout=5)
            except psycopg.OperationalError:
                if time.monotonic() > ends:
                    raise
                time.sleep(_LOOK_EVERY)

    def open_orders(self) -> int:
        return int(self.sql("order", "SELECT count(*) FROM orders WHERE open")[0][0])

    def check(self, seconds: float = PATIENCE, **expected: Any) -> None:
        """The oracle: waits until the system is quiet and consistent; fails with the violations.

        Waiting does not cure what must never happen (a second charge, say), but it lets work in flight finish.
        """
        until(lambda: not (complaints(self.databases, **expected) or self.waiting()), seconds, lambda: "\n".join(
            [*complaints(self.databases, **expected)[:20], f"queues: {self.waiting()}"]
        ))  # fmt: skip

    def clean(self) -> None:
        """Deletes what an earlier test left behind, if it left anything inconsistent."""
        clean(self)

    # Broker

    def queue(self, name: str) -> str:
        """The URL of a queue of the stack."""
        return self.url("localstack", f"/000000000000/orderflow-{name}")

    def send(self, service: str, *bodies: str) -> None:
        """Puts bodies into a service's queue, bypassing every check."""
        for body in bodies:
            self.aws("sqs").send_message(QueueUrl=self.queue(service), MessageBody=body)

    def depth(self, name: str) -> int:
        """Messages of a queue, including those in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.aws("sqs").get_queue_attributes(QueueUrl=self.queue(name), AttributeNames=names)["Attributes"]
        return sum(int(found[n]) for n in names)

    def waiting(self) -> dict[str, int]:
        """Messages by service, for services that have any."""
        return {service: n for service in SERVICES if (n := self.depth(service))}

    def dead_letters(self) -> dict[str, int]:
        """Messages by dead-letter queue."""
        urls = self.aws("sqs").list_queues(QueueNamePrefix="orderflow-")["QueueUrls"]
        names = [url.rpartition("/orderflow-")[2] for url in urls]
        return {name: self.depth(name) for name in names if name.endswith("dlq")}

    def no_dead_letters(self) -> None:
        """Fails with the reasons of dead letters if there are any."""
        found = {queue: n for queue, n in self.dead_letters().items() if n}
        sqs = self.aws("sqs")
        lines = [f"{queue}: {n}" for queue, n in found.items()]
        for queue in found:
            answer = sqs.receive_message(
                QueueUrl=self.queue(queue), MaxNumberOfMessages=10, VisibilityTimeout=0, MessageAttributeNames=["All"]
            )
            lines += [f"{m.get('MessageAttributes')} {m['Body'][:600]}" for m in answer.get("Messages", ())]
        assert not found, "\n".join(lines)

    def take_dead_letters(self, service: str, expected: int, seconds: float = PATIENCE) -> list[tuple[str, str, int]]:
        """Removes a service's dead letters and returns (body, reason, receives), once there are as many as expected."""
        taken: list[tuple[str, str, int]] = []
        queue = self.queue(f"{service}-dlq")

        def enough() -> bool:
            answer = self.aws("sqs").receive_message(
                QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1, MessageAttributeNames=["All"]
            )
            for message in answer.get("Messages", ()):
                told = {name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()}
                taken.append((message["Body"], told.get("reason", ""), int(told.get("receives", 0))))
                self.aws("sqs").delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            return len(taken) >= expected

        until(enough, seconds, lambda: f"{len(taken)} of {expected} dead letters: {[r for _, r, _ in taken]}")
        return taken

    # Parts

    def all_ready(self) -> bool:
        return {part.state for part in self.runtime.status()} == {"ready"}

    def until_ready(self, seconds: float = PATIENCE) -> None:
        until(self.all_ready, seconds, lambda: {part.name: part.state for part in self.runtime.status()})

    def logged(self, service: str, text: str) -> list[dict[str, Any]]:
        """The lines of a service's log that contain `text`."""
        found = (line for line in self.runtime.logs(service).splitlines() if text in line)
        return [json.loads(line) for line in found if line.startswith("{")]

    def close(self) -> None:
        self.http.close()


@contextmanager
def running(
    folder: Path, settings: Mapping[str, str], start: Callable[[EmbeddedRuntime], object] = lambda runtime: runtime.up()
) -> Iterator[System]:
    """Starts a system for the caller, and removes it afterwards. The services are processes, around the infrastructure
    that `ORDERFLOW_TEST_INFRA` chooses."""
    kind = EmbeddedRuntime
    if provider() == "containers":
        need_engine()
        from tests.support.services_around_infrastructure import AroundContainers  # needs testcontainers

        kind = AroundContainers
    # Tests place more orders at once than the default rate of traces records, and read any of their traces.
    runtime = kind(folder / "home", {**free_ports(), "OTEL_TRACES_SAMPLER": "parentbased_always_on", **settings})
    try:
        start(runtime)
        system = System(runtime)
        for service in ("payment", "shipping"):
            system.get(service, "/simulator/ledger")  # creates the providers' tables, which the oracle reads
        yield system
        system.close()
    finally:
        runtime.reset()


@contextmanager
def overridden(system: System, overrides: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """The running system with other settings for single services meanwhile; their processes are restarted."""
    runtime = system.runtime
    before = runtime._overrides
    try:
        runtime._overrides = {name: dict(more) for name, more in overrides.items()}
        runtime.up()
        yield
    finally:
        runtime._overrides = before
        runtime.up()
