"""Starting executions and answering tasks: what counts as sent, what is tried again, and what is given up."""

from __future__ import annotations

import json
import threading
from functools import cache
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from orderflow import contracts as c
from orderflow.broker import Parcel
from orderflow.broker.aws.clients import Clients
from orderflow.broker.aws.step_functions import StepFunctions, spent_tokens
from orderflow.contracts import EventBus, Workflow
from orderflow.envelope import Envelope, compose
from orderflow.errors import BrokerUnavailable
from orderflow.routing import Channel, route_of
from orderflow.settings import Settings
from tests.support.threads import in_background
from tests.unit.deploy.test_state_machine import placed

SETTINGS = Settings(aws_endpoint_url="http://127.0.0.1:1")


class Fake:
    """Step Functions as its client shows it: `errors` by token or execution name."""

    def __init__(self, errors: dict[str, Exception]) -> None:
        self.errors = errors
        self.calls: list[dict[str, Any]] = []

    def start_execution(self, **call: Any) -> None:
        self._call(call["name"], call)

    def send_task_success(self, **call: Any) -> None:
        self._call(call["taskToken"], call)

    def _call(self, key: str, call: dict[str, Any]) -> None:
        self.calls.append(call)
        if key in self.errors:
            raise self.errors[key]


def error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "Operation")


@cache
def _clients() -> Clients:
    """Those of all tests: none of them calls AWS, and making them takes longest."""
    made = Clients(SETTINGS)
    made._urls["orderflow-ready"] = "http://x/000000000000/orderflow-ready"
    return made


def bus(**errors: Exception) -> tuple[StepFunctions, Fake]:
    clients, fake = _clients(), Fake(errors)
    clients._stepfunctions = fake
    return StepFunctions(clients, SETTINGS), fake


def outcome(token: str | None) -> Parcel:
    envelope = compose(
        c.PaymentDeclined(reason="no funds"), source="payment", order_id=placed().subject,
        workflow=Workflow.STEP_FUNCTIONS, event_bus=EventBus.SNS, task_token=token,
    )  # fmt: skip
    return Parcel(envelope, envelope.encode())


def parcel(envelope: Envelope) -> Parcel:
    return Parcel(envelope, envelope.encode())


def test_an_order_is_one_execution() -> None:
    """Named by the order; one that is there already counts as started."""
    first, again = placed(), placed()
    machine, fake = bus(**{again.subject: error("ExecutionAlreadyExists")})
    assert machine.start([parcel(first), parcel(again)]) == []
    assert {call["name"] for call in fake.calls} == {first.subject, again.subject}
    assert json.loads(fake.calls[0]["input"])["order"]["id"] in (first.subject, again.subject)


@pytest.mark.parametrize("code", ["InvalidToken", "TaskTimedOut", "TaskDoesNotExist", "ValidationException"])
def test_a_spent_token_is_no_failure(code: str) -> None:
    """It counts as sent, and is counted."""
    machine, _ = bus(late=error(code))
    before = spent_tokens[(code,)]
    assert machine.answer([outcome("late"), outcome("good")]) == []
    assert spent_tokens[(code,)] == before + 1


def test_the_answer_is_what_the_machine_needs() -> None:
    machine, fake = bus()
    machine.answer([outcome("good")])
    told = json.loads(fake.calls[0]["output"])
    assert (told["type"], told["fact"], told["reason"]) == (
        "orderflow.PaymentDeclined.v1", "PaymentDeclined", "no funds"
    )  # fmt: skip


def test_only_what_was_not_accepted_is_retried() -> None:
    """A throttled call, and one that may be the message's fault, is its message's own failure; the others are sent."""
    for code in ("ThrottlingException", "SomethingNew"):
        machine, _ = bus(slow=error(code))
        [failure] = machine.answer([outcome("good"), outcome("slow"), outcome("good")])
        assert (failure.index, failure.final, failure.code) == (1, False, code)


def test_an_outage_is_the_brokers() -> None:
    """Nothing got through: the publisher keeps the whole batch."""
    away = EndpointConnectionError(endpoint_url="http://x")
    machine, _ = bus(a=away, b=away)
    with pytest.raises(BrokerUnavailable):
        machine.answer([outcome("a"), outcome("b")])


def test_an_order_that_can_never_start_is_final() -> None:
    """No second try helps: it is parked for an operator."""
    order = placed()
    machine, _ = bus(**{order.subject: error("InvalidExecutionInput")})
    [failure] = machine.start([parcel(order)])
    assert failure.final


@pytest.mark.parametrize(
    ("message", "resend", "token", "channel"),
    [
        (c.OrderPlaced, 0, False, Channel.START),
        (c.OrderPlaced, 1, False, Channel.QUEUE),
        (c.StockReserved, 0, True, Channel.TOKEN),
        (c.StockReserved, 3, True, Channel.TOKEN),
        (c.StockReserved, 0, False, Channel.NONE),
        (c.OrderCancellationRequested, 0, False, Channel.NONE),
        (c.OrderCancellationRequested, 0, True, Channel.TOKEN),
        (c.OrderRetryRequested, 0, False, Channel.QUEUE),
    ],
)
def test_where_one_message_goes(message: type[c.Message], resend: int, token: bool, channel: Channel) -> None:
    """An order that reminds is the guardian's; an answer that no task asked for goes nowhere."""
    assert route_of(Workflow.STEP_FUNCTIONS, message, resend=resend, token=token).channel is channel


def test_an_answer_that_this_code_can_not_read_keeps_no_other() -> None:
    """Of a newer process: another's relay can send it."""
    machine, fake = bus()
    newer = outcome("a")
    strange = Parcel(newer.envelope.model_copy(update={"type": "orderflow.Unheard.v1"}), newer.body)
    [failure] = machine.answer([strange, outcome("b")])
    assert (failure.index, failure.final) == (0, False)
    assert [call["taskToken"] for call in fake.calls] == ["b"]


@pytest.mark.row(27)
def test_starts_that_hang_keep_no_answers() -> None:
    """Each has threads of its own: as many starts as there are threads hang, and answers go."""
    machine, fake = bus()
    mended, hanging = threading.Event(), threading.Semaphore(0)

    def hang(**call: Any) -> None:
        hanging.release()
        assert mended.wait(60)

    fake.start_execution = hang  # type: ignore[method-assign]
    starts = in_background(lambda: machine.start([parcel(placed()) for _ in range(10)]))
    assert hanging.acquire(timeout=20)
    assert machine.answer([outcome("a"), outcome("b")]) == []
    mended.set()
    assert starts.result(20) == []
    machine.close()
