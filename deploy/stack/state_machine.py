"""Generates the Step Functions state machine of the saga (ASL in JSONPath) from `orderflow.saga`.

**Execution input.** `orderflow.broker.aws.step_functions` makes it: `now` (below), `order` (id, event bus, items,
total, payment_method, address) and `times`. With `times`, one set of settings governs every workflow: `forward` has the
timeouts of a step's attempts, `resends` how often a step is resent; `undo_waits` and `undo_attempts` are the same for a
compensation.

**State data** stays small whatever the order's size, because the history keeps the data of each state. The order itself
is read from the context object, `$$.Execution.Input`.

- `now` is the message that led here (`id`, `fact`, `reason`, `traceparent`), and the attempt: `resend` counts the
  messages sent before, `left` those that may still be sent, `wait` is the timeout in seconds.
- `undo` exists once something has to be compensated: the `facts` that the arbiter is told when all of it is
  compensated, and the `reason`.

**A step** is a task that waits for its token. The answer is a result, also if it is a refusal; a Choice tells them
apart. A task that times out is entered again by Catch, Choice and Pass, which gives it a new token: in LocalStack, a
Retry would keep the old one.
https://docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html#connect-wait-token
"""

from __future__ import annotations

import json
from typing import Any, Final

from orderflow import contracts as c
from orderflow.contracts import Message, Workflow, name_of, type_of
from orderflow.saga import DEADLINE, NEEDS_ATTENTION, STEP_UNDONE, STEPS, Step

State = dict[str, Any]

RECEIVERS: Final = ("order", *dict.fromkeys(step.service for step in STEPS))
"""The services to whose queues the state machine sends."""

_ASK: Final = name_of(c.CancelOrder)
_UNDO_ALL: Final = "Undo all"
_UNDONE_ELSEWHERE: Final = "Undone elsewhere"
_INPUT: Final = "$$.Execution.Input"
_ANSWER: Final = {f"{field}.$": f"$.{field}" for field in ("id", "fact", "reason", "traceparent")}
_SAME: Final = {f"{field}.$": f"$.now.{field}" for field in ("id", "fact", "reason", "traceparent")}
_FIRST: Final = {"resend": 0, "left.$": f"{_INPUT}.times.resends", "wait.$": f"{_INPUT}.times.forward[0]"}
_FIRST_UNDO: Final = {"resend": 0, "left.$": f"{_INPUT}.times.undo_attempts", "wait.$": f"{_INPUT}.times.undo_waits[0]"}

_DATA: Final[dict[type[Message], State]] = {
    c.ReserveStock: {"items.$": f"{_INPUT}.order.items"},
    c.ChargePayment: {
        "amount.$": f"{_INPUT}.order.total",
        "payment_method.$": f"{_INPUT}.order.payment_method",
    },
    c.ScheduleShipment: {"items.$": f"{_INPUT}.order.items", "address.$": f"{_INPUT}.order.address"},
    c.CancelOrder: {"reason.$": "$.undo.reason", "facts.$": "$.undo.facts"},
    c.OrderNeedsAttention: {"reason.$": "$.undo.reason"},
}
"""The data of each message: only what its receiver needs."""


def definition() -> State:
    """The whole state machine. CloudFormation replaces each `${…Queue}` by the URL of that service's queue."""
    forward = [(step.command, step.service) for step in STEPS] + [(c.ConfirmOrder, "order")]
    states: State = {}
    for (command, service), following in zip(forward, [*[name_of(m) for m, _ in forward[1:]], ""], strict=True):
        states |= _forward(command, service, following)
    states |= _give_way()
    for step in reversed(STEPS):
        earlier = STEPS[: STEPS.index(step)]
        states |= _undo(step.undo, step.service, name_of(earlier[-1].undo) if earlier else _ASK)
    states |= _arbiter() | _ends()
    return {
        "Comment": "One order, from OrderPlaced to CONFIRMED or CANCELLED. Generated: python -m deploy.stack.render",
        "StartAt": name_of(STEPS[0].command),
        "States": states,
    }


def text() -> str:
    """The definition as compact JSON, one state per line: CloudFormation accepts templates of up to 51,200 bytes."""
    whole = definition()
    states = ",\n".join(f"  {_json(name)}: {_json(state)}" for name, state in whole.pop("States").items())
    head = "".join(f"  {_json(key)}: {_json(value)},\n" for key, value in whole.items())
    return f'{{\n{head}  "States": {{\n{states}\n}}}}\n'


def envelope(message: type[Message], *, token: bool = True) -> State:
    """The CloudEvents envelope of a message, as an expression that the state machine evaluates."""
    body = {
        "specversion": "1.0",
        "id.$": "States.UUID()",
        "source": "orderflow/step-functions",
        "type": type_of(message),
        "subject.$": f"{_INPUT}.order.id",
        "time.$": "$$.State.EnteredTime",
        "datacontenttype": "application/json",
        "dataschema": f"urn:orderflow:{name_of(message)}:v{message.version}",
        "data": _DATA.get(message, {}),
        "traceparent.$": "$.now.traceparent",
        "workflow": Workflow.STEP_FUNCTIONS.value,
        "eventbus.$": f"{_INPUT}.order.event_bus",
        "causationid.$": "$.now.id",
        "resend.$": "$.now.resend",
    }
    if token:
        return body | {"tasktoken.$": "$$.Task.Token"}
    del body["resend.$"]  # this message is sent once
    return body


def _task(message: type[Message], service: str, following: str, result: State) -> State:
    """A task and what follows a failure. An answer that is late: the task is entered again or given up. A message that
    could not be sent (throttled): the same, after the wait."""
    name = name_of(message)
    return {
        name: {
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
            "Parameters": {"QueueUrl": _queue(service), "MessageBody": envelope(message)},
            "TimeoutSecondsPath": "$.now.wait",
            **result,
            "Catch": [
                {"ErrorEquals": ["States.Timeout"], "ResultPath": "$.error", "Next": f"{name} late?"},
                {"ErrorEquals": ["States.TaskFailed"], "ResultPath": "$.error", "Next": f"{name} unsent"},
            ],
            "Next": following,
        },
        f"{name} unsent": {"Type": "Wait", "SecondsPath": "$.now.wait", "Next": f"{name} late?"},
    }


def _again(name: str, times: str) -> State:
    attempt = {
        "resend.$": "States.MathAdd($.now.resend, 1)",
        "left.$": "States.MathAdd($.now.left, -1)",
        "wait.$": f"States.ArrayGetItem({_INPUT}.times.{times}, States.MathAdd($.now.resend, 1))",
    }
    return {"Type": "Pass", "Parameters": _SAME | attempt, "ResultPath": "$.now", "Next": name}


def _late(name: str, given_up: str) -> State:
    more = {"Variable": "$.now.left", "NumericGreaterThan": 0, "Next": f"{name} again"}
    return {"Type": "Choice", "Choices": [more], "Default": given_up}


def _owe(facts: list[str], following: str, reason: State) -> State:
    """The state that begins compensation. It sets the facts that the arbiter is told in the end, and the attempts."""
    undo = {"facts": facts, **reason}
    return {"Type": "Pass", "Parameters": {"now": _SAME | _FIRST_UNDO, "undo": undo}, "Next": following}


def _fact(name: str, following: str) -> State:
    return {"Variable": "$.now.fact", "StringEquals": name, "Next": following}


def _forward(command: type[Message], service: str, following: str) -> State:
    """The states of a step, or of the confirmation. A refused step owes the compensation of all steps before it."""
    name = name_of(command)
    states = _task(command, service, f"{name} answered", {"ResultSelector": {"now": _ANSWER | _FIRST}})
    states[f"{name} late?"] = _late(name, f"{name} deadline")
    states[f"{name} again"] = _again(name, "forward")
    # The order may be confirmed, or have another execution in flight: ask the arbiter before compensating anything.
    states[f"{name} deadline"] = _owe([DEADLINE], _ASK, {"reason": f"no answer to {name} in time"})
    choices = [_fact(name_of(c.OrderConfirmed), "Confirmed"), _fact(name_of(c.ConfirmationRejected), _UNDO_ALL)]
    for step in STEPS:
        if step.command is command:
            refused = name_of(step.refusal)
            choices = [_fact(name_of(step.success), following), _fact(refused, refused)]
            states[refused] = _refused(step)
    states[f"{name} answered"] = {"Type": "Choice", "Choices": choices, "Default": _UNDONE_ELSEWHERE}
    return states


def _refused(step: Step) -> State:
    before = STEPS[: STEPS.index(step)]
    facts = [name_of(step.refusal)] + [name_of(s.undone) for s in reversed(before)]
    return _owe(facts, name_of(before[-1].undo) if before else _ASK, {"reason.$": "$.now.reason"})


def _give_way() -> State:
    """The states that owe the compensation of every step. Only the arbiter's answer leads to that."""
    facts = [name_of(c.OrderCancellationRequested)] + [name_of(step.undone) for step in reversed(STEPS)]
    return {
        _UNDONE_ELSEWHERE: _owe([STEP_UNDONE], _ASK, {"reason": "a step had been undone"}),
        _UNDO_ALL: _owe(facts, name_of(STEPS[-1].undo), {"reason.$": "$.now.reason"}),
    }


def _undo(message: type[Message], service: str, following: str) -> State:
    """The states of a compensation. It has attempts of its own; after the last one an operator is needed."""
    name = name_of(message)
    result = {"ResultSelector": _ANSWER | _FIRST_UNDO, "ResultPath": "$.now"}
    gave_up = {
        "facts.$": "$.undo.facts",
        "reason.$": f"States.Format('no answer to {name} after {{}} times', States.MathAdd($.now.resend, 1))",
    }
    return {
        **_task(message, service, following, result),
        f"{name} late?": _late(name, f"{name} given up"),
        f"{name} again": _again(name, "undo_waits"),
        f"{name} given up": {"Type": "Pass", "Parameters": gave_up, "ResultPath": "$.undo", "Next": NEEDS_ATTENTION},
    }


def _arbiter() -> State:
    """The states of CancelOrder. The order's answer is final; OrderCancellationRequested says that every step must be
    compensated first."""
    choices = [_fact(name_of(c.OrderCancelled), "Cancelled"), _fact(name_of(c.OrderConfirmed), "Confirmed")]
    return {
        **_undo(c.CancelOrder, "order", f"{_ASK} answered"),
        f"{_ASK} answered": {"Type": "Choice", "Choices": choices, "Default": _UNDO_ALL},
    }


def _ends() -> State:
    again = {"ErrorEquals": ["States.TaskFailed"], "IntervalSeconds": 2, "BackoffRate": 2, "MaxAttempts": 8}
    return {
        NEEDS_ATTENTION: {
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage",
            "Parameters": {"QueueUrl": _queue("order"), "MessageBody": envelope(c.OrderNeedsAttention, token=False)},
            "Retry": [again],
            "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Gave up"}],
            "Next": "Gave up",
        },
        "Gave up": {
            "Type": "Fail",
            "Error": NEEDS_ATTENTION,
            "Cause": "An undo got no answer. POST /orders/{id}/retry starts another execution.",
        },
        "Confirmed": {"Type": "Succeed"},
        "Cancelled": {"Type": "Succeed"},
    }


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _queue(service: str) -> str:
    return f"${{{service.capitalize()}Queue}}"
