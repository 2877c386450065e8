"""The state machine on a real LocalStack: late answers, deadlines, tokens, lost executions, an operator's retry.

Every outcome of an order is in test_end_to_end.py; these have the owners' times shortened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from orderflow import clock
from orderflow.contracts import EventBus, Message, RefundPayment, Workflow
from orderflow.envelope import compose
from runtime import EmbeddedRuntime
from tests.support import parts
from tests.support.aws import client
from tests.support.system import System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("runtime")]

KIND = (Workflow.STEP_FUNCTIONS, EventBus.SNS)


@pytest.fixture
def system(own_system: System, as_set: EmbeddedRuntime) -> System:
    """A system with short times, in which every part runs."""
    own_system.until_ready()
    return own_system


class Machine:
    """The state machine, from outside."""

    def __init__(self, system: System) -> None:
        self.client = client("stepfunctions", system.url("localstack"))

    def arn(self, name: str) -> str:
        return f"arn:aws:states:us-east-1:000000000000:execution:orderflow-orders:{name}"

    def status(self, name: str) -> str:
        return str(self.client.describe_execution(executionArn=self.arn(name))["status"])

    def asked(self, name: str, command: str) -> list[dict[str, Any]]:
        """The messages of this type that an execution has sent; none if it has not begun."""
        try:
            events = self.client.get_execution_history(executionArn=self.arn(name), maxResults=1000)["events"]
        except self.client.exceptions.ExecutionDoesNotExist:
            return []
        bodies = [
            json.loads(e["taskScheduledEventDetails"]["parameters"])["MessageBody"]
            for e in events
            if e["type"] == "TaskScheduled"
        ]
        return [body for body in bodies if body["type"] == f"orderflow.{command}.v1"]


@pytest.fixture
def machine(system: System) -> Iterator[Machine]:
    system.clean()
    made = Machine(system)
    yield made
    made.client.close()


def commands(system: System, order_id: str, name: str) -> list[str]:
    """How often the timeline contains a command, by its notes."""
    return [e["note"] for e in system.timeline(order_id)["entries"] if e["type"] == name and e["kind"] == "command"]


def restarts(system: System, order_id: str) -> int:
    rows = system.sql("orchestrator", "SELECT restarts FROM executions WHERE order_id = %s", order_id)
    return int(rows[0][0]) if rows else 0


def test_the_orchestrator_is_no_part_of_it(system: System, machine: Machine) -> None:
    """With the orchestrator stopped, orders continue; their timeline says that a part is missing, and has it later."""
    parts.stop(system.runtime, "orchestrator")
    try:
        ids = [system.place(KIND) for _ in range(3)] + [system.place(KIND, postal_code="00000")]
        assert system.until_terminal(*ids) == ["CONFIRMED"] * 3 + ["CANCELLED"]
        assert system.timeline(ids[0])["incomplete"] == ["orchestrator"]
    finally:
        parts.start(system.runtime, "orchestrator")
        system.until_ready()
    assert len(commands(system, ids[0], "ReserveStock")) >= 1
    system.check()


@pytest.mark.row(18)
def test_a_service_that_is_late_gets_the_command_again(system: System, machine: Machine) -> None:
    """The same machine resends it with a new token; the answer to the old one is harmless."""
    parts.stop(system.runtime, "payment")
    order_id = system.place(KIND)
    until(lambda: len(machine.asked(order_id, "ChargePayment")) > 1)
    parts.start(system.runtime, "payment")
    system.until_terminal(order_id)
    asked = machine.asked(order_id, "ChargePayment")
    assert [body["resend"] for body in asked] == list(range(len(asked)))
    assert len({body["tasktoken"] for body in asked}) == len(asked)
    assert system.ledger(order_id).count("charge") == 1
    system.check()


@pytest.mark.row(18)
def test_a_deadline_undoes_the_order(system: System, machine: Machine) -> None:
    """The arbiter is asked first; the service that comes back refuses the late command and answers the compensation."""
    parts.stop(system.runtime, "payment")
    order_id = system.place(KIND)
    until(lambda: system.order(order_id)["status"] == "CANCELLING")
    parts.start(system.runtime, "payment")
    until(lambda: system.order(order_id)["status"] in ("CANCELLED", "NEEDS_ATTENTION"))
    if system.order(order_id)["status"] == "NEEDS_ATTENTION":  # a slow machine: the compensation's own attempts ran out
        retry(system, order_id)
        until(lambda: system.order(order_id)["status"] == "CANCELLED")
    assert "ChargePayment" in system.order(order_id)["reason"]
    assert len(machine.asked(order_id, "ChargePayment")) == 4
    system.check()


def retry(system: System, order_id: str) -> None:
    answer = system.http.post(system.url("order", f"/orders/{order_id}/retry"), json={"by": "ada", "why": "it is back"})
    assert answer.status_code == 202, answer.text


@pytest.mark.row(18)
def test_an_undo_that_fails_waits_for_an_operator(system: System, machine: Machine) -> None:
    """The execution ends; the retry starts another one, which ends correctly."""
    parts.stop(system.runtime, "payment")
    order_id = system.place(KIND)
    until(lambda: system.order(order_id)["status"] == "NEEDS_ATTENTION")
    until(lambda: machine.status(order_id) == "FAILED")
    parts.start(system.runtime, "payment")
    system.until_ready()  # a compensation has few attempts here
    retry(system, order_id)
    until(lambda: system.order(order_id)["status"] == "CANCELLED", what=lambda: system.story(order_id))
    assert restarts(system, order_id) >= 1
    notes = [e["note"] for e in system.timeline(order_id)["entries"] if e["type"] == "ExecutionStarted"]
    assert notes[:2] == [order_id, f"{order_id}-r1"]
    system.check()


@pytest.mark.row(18)
def test_the_customer_cancels_meanwhile(system: System, machine: Machine) -> None:
    """The machine learns it when it asks to confirm, at the latest."""
    parts.stop(system.runtime, "shipping")
    order_id = system.place(KIND)
    until(lambda: machine.asked(order_id, "ScheduleShipment"))
    assert system.cancel(order_id) == 202
    parts.start(system.runtime, "shipping")
    until(lambda: system.order(order_id)["status"] == "CANCELLED")
    assert system.order(order_id)["reason"] == "cancelled by the customer"
    system.check()


def forge(system: System, service: str, message: Message, **changes: Any) -> str:
    """Puts a command into a service's queue that no machine sent; the order that it names."""
    envelope = compose(
        message, source="step-functions", order_id=clock.new_id(), workflow=Workflow.STEP_FUNCTIONS,
        event_bus=EventBus.SNS,
    ).model_copy(update=changes)  # fmt: skip
    system.send(service, envelope.encode())
    return envelope.subject


@pytest.mark.row(4, 15)
def test_tokens_that_are_repeated_or_forged_do_no_harm(system: System, machine: Machine) -> None:
    """They are answered, although nobody waits for the answer, and nothing is stuck."""
    order_id = system.place(KIND)
    assert system.until_terminal(order_id) == ["CONFIRMED"]
    [asked] = machine.asked(order_id, "ConfirmOrder")
    for token in (asked["tasktoken"], "forged", "x" * 2000, "", None):
        forge(system, "payment", RefundPayment(), tasktoken=token)
    system.send("order", json.dumps(asked), json.dumps(asked | {"resend": 1}))
    until(lambda: system.sql("payment", "SELECT count(*) FROM payments WHERE state = 'undone'")[0][0] >= 5)
    system.check()
    assert system.order(order_id)["status"] == "CONFIRMED"
    system.no_dead_letters()


@pytest.mark.row(6)
def test_an_execution_that_was_stopped_is_started_again(system: System, machine: Machine) -> None:
    """The guardian replaces it under another name; nothing is done twice."""
    parts.stop(system.runtime, "shipping")
    order_id = system.place(KIND)
    until(lambda: machine.asked(order_id, "ScheduleShipment"))
    machine.client.stop_execution(executionArn=machine.arn(order_id), error="Test", cause="somebody did")
    until(lambda: restarts(system, order_id) == 1)
    parts.start(system.runtime, "shipping")
    system.until_terminal(order_id)
    assert system.ledger(order_id).count("charge") == 1
    system.check()


@pytest.mark.row(6)
def test_executions_lost_with_their_broker_end_right(system: System, machine: Machine) -> None:
    """LocalStack is killed with orders in flight, and comes back empty: nobody is charged twice. It keeps nothing
    across a restart, so its stack is deployed again, its marker last."""
    sqs = system.aws("sqs")
    sqs.create_queue(QueueName="made-by-hand")
    ids = [system.place(KIND) for _ in range(6)] + [system.place(KIND, payment_method="pm_card_declined")]
    time.sleep(0.5)
    killed = parts.kill(system.runtime, "localstack")
    ids.append(system.place(KIND))
    statuses = system.until_terminal(*ids)
    assert "NEEDS_ATTENTION" not in statuses
    assert statuses[6] == "CANCELLED"
    assert sum(restarts(system, order_id) for order_id in ids) >= 1, "the fault did not occur"
    system.until_ready()
    assert system.runtime.pid("localstack") not in (0, killed)
    names = {url.rpartition("/")[2] for url in sqs.list_queues(QueueNamePrefix="orderflow-")["QueueUrls"]}
    assert {"orderflow-ready", "orderflow-order", "orderflow-payment-rule-dlq"} <= names
    assert "QueueUrls" not in sqs.list_queues(QueueNamePrefix="made-by-hand")
    system.check()
