"""What the history of an order's executions tells, and how they are called."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator import execution_history, watched_executions
from orchestrator.engine import State
from orderflow import clock
from orderflow import contracts as c
from orderflow.envelope import Envelope, compose
from orderflow.saga import DEADLINE, STEPS
from tests.unit.deploy.test_state_machine import placed

START = datetime(2025, 1, 1, tzinfo=UTC)


def history(order: Envelope, *asked: tuple[Envelope, dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Events as Step Functions tells them."""
    queue = "https://sqs.us-east-1.amazonaws.com/1/orderflow-payment"
    times = {"forward": [10, 10, 20, 20], "undo_waits": [10, 20, 40], "undo_attempts": 2}
    events: list[dict[str, Any]] = [
        {"type": "ExecutionStarted", "executionStartedEventDetails": {"input": json.dumps({"times": times})}}
    ]
    for envelope, output in asked:
        parameters = {"QueueUrl": queue, "MessageBody": json.loads(envelope.encode())}
        details = {"resource": "sendMessage.waitForTaskToken", "parameters": json.dumps(parameters)}
        events.append({"type": "TaskScheduled", "taskScheduledEventDetails": details})
        if output:
            events.append({"type": "TaskSucceeded", "taskSucceededEventDetails": {"output": json.dumps(output)}})
        else:
            events.append({"type": "TaskTimedOut", "taskTimedOutEventDetails": {"error": "States.Timeout"}})
    for i, event in enumerate(events):
        event["timestamp"] = START + timedelta(seconds=i)
    return events


def test_a_history_is_told_as_a_saga() -> None:
    """Commands with their ids and counters, outcomes with what caused them, and what is waited for."""
    order = placed()
    reserve = compose(
        c.ReserveStock(items=()), source="step-functions", order_id=order.subject, workflow=order.workflow,
        event_bus=order.eventbus, causation_id=order.id, task_token="secret",
    )  # fmt: skip
    charge = reserve.model_copy(update={"id": clock.new_id(), "type": "orderflow.RefundPayment.v1", "resend": 0})
    outcome = {
        "type": "orderflow.StockRejected.v1", "id": clock.new_id(), "source": "orderflow/inventory",
        "fact": "StockRejected", "reason": "sold out",
    }  # fmt: skip
    told = execution_history.summarise(
        [("lost", []), ("o-r1", history(order, (reserve, outcome), (charge, None), (charge.again(), None)))]
    )
    assert told is not None
    assert [(line.type, line.service, line.note, line.resend) for line in told.lines] == [
        ("ExecutionStarted", "step-functions", "o-r1", 0),
        ("ReserveStock", "step-functions", "", 0),
        ("StockRejected", "inventory", "sold out", 0),
        ("RefundPayment", "step-functions", "", 0),
        ("RefundPayment", "step-functions", "", 1),
    ]
    assert told.lines[1].message_id == reserve.id
    assert told.lines[2].causation_id == reserve.id
    assert told.state is State.COMPENSATING
    assert told.reason == "sold out"
    assert told.waiting is not None
    assert (told.waiting.step, told.waiting.service) == ("RefundPayment", "payment")
    assert told.waiting.deadline == told.waiting.since + timedelta(seconds=10 + 20 + 40)
    assert "secret" not in repr(told)
    assert execution_history.summarise([("lost", [])]) is None


@pytest.mark.parametrize(
    ("name", "seconds"),
    [(c.name_of(m), 10 + 10 + 20 + 20) for m in (*(step.command for step in STEPS), c.ConfirmOrder)]
    + [(c.name_of(m), 10 + 20 + 40) for m in (*(step.undo for step in STEPS), c.CancelOrder)],
)
def test_an_undo_has_times_of_its_own(name: str, seconds: int) -> None:
    """Told by what it is in the saga, whatever it is called."""
    asked = placed().model_copy(update={"type": f"orderflow.{name}.v1"})
    told = execution_history.summarise([("o", history(placed(), (asked, None)))])
    assert told is not None
    assert told.waiting is not None
    assert told.waiting.deadline == told.waiting.since + timedelta(seconds=seconds)


def test_a_deadline_is_seen_by_the_state_that_it_leads_to() -> None:
    """As the fact that a saga has of it, with what was waited for."""
    entered = {"name": "ChargePayment deadline", "input": "{}"}
    events = history(placed())
    events.append({"type": "PassStateEntered", "timestamp": START, "stateEnteredEventDetails": entered})
    told = execution_history.summarise([("o", events)])
    assert told is not None
    assert told.facts == {DEADLINE}
    assert (told.lines[-1].type, told.lines[-1].note) == (DEADLINE, "no answer to ChargePayment in time")
    assert told.state is State.COMPENSATING


def test_names_of_executions() -> None:
    assert watched_executions.execution_name("o", 0) == "o"
    assert watched_executions.execution_name("o", 2) == "o-r2"
