"""Step Functions in this process, and what a filter of SNS or EventBridge admits.

Executions interpret the state machine that the stack deploys (`deploy/stack/state_machine.py`). They continue as soon
as a task is answered; their timeouts follow a clock that a test moves. The real `orderflow.broker.aws.step_functions`
talks to them, through a client that knows the operations it uses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from typing import Any, Final

from botocore.exceptions import ClientError

from deploy.stack import state_machine
from orderflow.broker.memory import MemoryQueue
from orderflow.envelope import Envelope
from orderflow.routing import SERVICES, event_pattern, filter_policy, heard_by
from tests.support.asl import Execution

_KEPT: Final = 90 * 86_400
"""Seconds that an ended execution is kept, and that its name can't be used again.
https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html"""

INPUT_BYTES: Final = 262_144
"""The largest input of an execution, and the largest output of a task, that Step Functions accepts."""


class Inline(Executor):
    """An executor that runs calls at once, in the caller's thread."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # as an executor does; a Crash is not caught
            future.set_exception(error)
        return future


class Machine:
    """Step Functions as its boto3 client shows it; names and errors are those of the API.

    `now` is the number of seconds that have passed for its executions.
    """

    def __init__(self, queues: Mapping[str, MemoryQueue]) -> None:
        self.executions: dict[str, Execution] = {}
        self.now = 0.0
        self._queues = queues
        self._ends: dict[str, float] = {}
        """When the waiting state's time ends, by execution."""
        self.deploy()

    def deploy(self) -> None:
        """Sets the definition of executions that start from now on; running ones keep theirs."""
        text = json.dumps(state_machine.definition())
        for service in self._queues:
            text = text.replace(f"${{{service.capitalize()}Queue}}", f"http://memory/orderflow-{service}")
        self._definition = json.loads(text)

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> None:
        if len(input) > INPUT_BYTES:
            raise _error("InvalidExecutionInput")
        data = json.loads(input)
        if found := self.executions.get(name):
            if found.status == "RUNNING" and found.input == data:
                return  # idempotent, as long as it is open
            raise _error("ExecutionAlreadyExists")
        execution = self.executions[name] = Execution(self._definition, data, self._send)
        execution.begin()
        self._ends[name] = self.now + execution.wait

    def send_task_success(self, *, taskToken: str, output: str) -> None:
        if len(output) > INPUT_BYTES:
            raise _error("InvalidOutput")
        for name, execution in self.executions.items():
            if execution.token == taskToken:
                execution.succeed(json.loads(output))
                self._ends[name] = self.now + execution.wait
                return
        raise _error("InvalidToken")

    def describe_execution(self, *, executionArn: str) -> dict[str, str]:
        found = self._find(executionArn)
        return {"status": found.status, "error": found.error}

    def get_execution_history(self, *, executionArn: str, **_: Any) -> dict[str, Any]:
        return {"events": list(self._find(executionArn).events)}

    def pass_time(self, seconds: float) -> None:
        """Lets time pass. Each timeout fires at its own time, and what follows from it may time out as well."""
        self.now += seconds
        while due := [n for n, e in self.executions.items() if e.status == "RUNNING" and self._ends[n] <= self.now]:
            for name in due:
                self.executions[name].time_out()
                self._ends[name] += self.executions[name].wait
        for name, execution in list(self.executions.items()):
            if execution.status != "RUNNING" and self._ends[name] + _KEPT <= self.now:
                del self.executions[name]

    def lose(self) -> int:
        """Removes all executions, as if the broker had been wiped, and returns how many were running."""
        running = sum(execution.status == "RUNNING" for execution in self.executions.values())
        self.executions.clear()
        return running

    def _find(self, arn: str) -> Execution:
        if found := self.executions.get(arn.rpartition(":")[2]):
            return found
        raise _error("ExecutionDoesNotExist")

    def _send(self, queue: str, envelope: Envelope) -> bool:
        self._queues[queue.rpartition("-")[2]].put(envelope.encode())
        return True


def deployed_filters() -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The filter policy and the event pattern of each service that listens, as the stack has them."""
    return {service: (filter_policy(service), event_pattern(service)) for service in SERVICES if heard_by(service)}


def admits(rule: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    """Keys are ANDed, the choices of each ORed, in SNS's filter policies and EventBridge's patterns alike."""

    def holds(choices: Any, value: Any) -> bool:
        if isinstance(choices, dict):
            return admits(choices, value)
        return any(value not in c["anything-but"] if isinstance(c, dict) else value == c for c in choices)

    return all(holds(choices, told[key]) for key, choices in rule.items())


def _error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, "StepFunctions")
