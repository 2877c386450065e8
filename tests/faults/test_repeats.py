"""FAULTS row 4 on a real system: every message that a service sends arrives five more times at once, and again after
completion, while two processes of each service receive them. `test_messages.py` does it in one process, for every
outcome of every workflow; there a state machine's own messages are repeated, too."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from orderflow.contracts import MESSAGES, EventBus, Workflow
from orderflow.envelope import decode
from orderflow.routing import SERVICES, TABLE, Channel
from tests.support.load import Load, sizes
from tests.support.processes import workers
from tests.support.system import System, until

pytestmark = [
    pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("faults-system"), pytest.mark.row(4),
    pytest.mark.extra,
]  # fmt: skip

TIMES = 5

WATCH = """
CREATE TABLE copies (channel text, target text, body text, port int DEFAULT inet_client_port());
CREATE FUNCTION keep_copy() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO copies (channel, target, body) VALUES (NEW.channel, NEW.target, NEW.body); RETURN NULL; END $$;
CREATE TRIGGER keep_copy AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION keep_copy()
"""
FORGET = "DROP TRIGGER keep_copy ON outbox; DROP FUNCTION keep_copy; DROP TABLE copies"


class Repeater:
    """Repeats the services' messages, once or several times, directly into the queues of their receivers."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.bodies: list[tuple[str, str]] = []
        """(queue, body) of all messages that were sent."""
        self.repeats = 0
        self.ports: set[int] = set()
        """The client ports of the connections over which they were staged."""

    def run(self, stopping: threading.Event) -> None:
        while not stopping.wait(0.1):
            new = [one for service in SERVICES for one in self._sent_by(service)]
            self.bodies += new
            self.repeat(new)

    def repeat(self, bodies: list[tuple[str, str]]) -> None:
        sqs = self._system.aws("sqs")
        for queue, body in bodies:
            entries = [{"Id": str(n), "MessageBody": body} for n in range(TIMES)]
            answer = sqs.send_message_batch(QueueUrl=self._system.queue(queue), Entries=entries)
            self.repeats += len(answer["Successful"])

    def _sent_by(self, service: str) -> Iterator[tuple[str, str]]:
        for channel, target, body, port in self._system.sql(service, "DELETE FROM copies RETURNING *"):
            envelope = decode(body)
            self.ports.add(port)
            if channel == Channel.QUEUE:
                yield target, body
            elif channel == Channel.BUS:
                for listener in TABLE[envelope.workflow][MESSAGES[envelope.name]].listeners:
                    yield listener, body


@contextmanager
def repeated(system: System) -> Iterator[Repeater]:
    """All that services send from now on is repeated."""
    made, stopping = Repeater(system), threading.Event()
    for service in SERVICES:
        system.sql(service, WATCH)
    thread = threading.Thread(target=made.run, args=[stopping], daemon=True)
    thread.start()
    try:
        yield made
    finally:
        stopping.set()
        thread.join(30)
        for service in SERVICES:
            system.sql(service, FORGET)


def ports_of(pid: int) -> set[int]:
    """The client ports of a process's connections."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return {connection.laddr.port for process in family for connection in process.net_connections("tcp")}


def effects(system: System, orders: list[str]) -> list[Any]:
    """The results of all orders."""
    return [
        *system.sql("order", "SELECT id, status, reason FROM orders WHERE id = ANY(%s::uuid[]) ORDER BY 1", orders),
        *system.sql("payment", "SELECT order_id, state, fence FROM payments ORDER BY 1"),
        *system.sql("shipping", "SELECT order_id, state, fence FROM shipments ORDER BY 1"),
        *system.sql("inventory", "SELECT order_id, state FROM reservations ORDER BY 1"),
        *system.sql("providers", "SELECT order_id, kind, amount FROM ledger ORDER BY 1, 2"),
    ]


@pytest.mark.parametrize("number", sizes(24, 160))
def test_every_message_comes_many_times(
    system: System,
    seed: int,
    kinds: tuple[tuple[Workflow, EventBus], ...],
    number: int,
    tmp_path: Path,
    measured: Callable[..., None],
) -> None:
    if all(workflow is Workflow.STEP_FUNCTIONS for workflow, _ in kinds):
        pytest.skip("a state machine sends its messages itself; they are repeated in one process (test_messages.py)")
    with ExitStack() as stack:
        second = {
            service: stack.enter_context(workers(system, service, tmp_path / f"{service}.log", {}))[0]
            for service in SERVICES
        }
        until(lambda: all('"starting"' in (tmp_path / f"{service}.log").read_text() for service in SERVICES))
        with repeated(system) as repeater:
            with Load(system, kinds, rate=4, total=number, seed=seed) as load:
                taken = load.finish()
            system.until_terminal(*taken)
            system.check(acknowledged=taken)
        at_once = repeater.repeats
        shared = [service for service, process in second.items() if ports_of(process.pid) & repeater.ports]
        assert at_once == TIMES * len(repeater.bodies)
        assert at_once > 2 * TIMES * number
        before = effects(system, taken)
        repeater.repeat(repeater.bodies)
        system.check(acknowledged=taken)
    measured(messages=len(repeater.bodies), repeats_at_once=at_once, repeats_later=repeater.repeats - at_once)
    assert effects(system, taken) == before
    measured(by_two_processes=len(shared))
    assert len(shared) >= 3, f"only of {shared} two processes took messages"
    system.no_dead_letters()
