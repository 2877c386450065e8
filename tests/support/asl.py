"""Interprets executions of the generated state machine: which states they enter and what they send.

It is no emulator. It knows only the state types, paths and functions that `deploy/stack/state_machine.py` uses, and
fails on anything else, so that a test of the definition's own logic needs no LocalStack. `Walk` runs one execution to
its end; in `tests.support.machine`, time and the services drive executions.
"""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from orderflow import clock
from orderflow.envelope import Envelope

Answer = dict[str, Any] | None
"""A task's output; None if it times out; UNSENT if its message could not be sent."""

UNSENT: dict[str, Any] = {}


class Unresolved(AssertionError):
    """An expression finds nothing in the data to which it is applied."""


class Execution:
    """One execution. It continues until a state waits: a task for its answer, a Wait for its time.

    `send` takes a queue's URL and a message, and returns whether it could be sent. `sent` holds the messages so far,
    `states` the names of all states it entered, `events` its history, `input` the input it was started with. While it
    waits, `wait` is the number of seconds, and `token` the task's token (None in a Wait).
    """

    def __init__(self, definition: dict[str, Any], data: dict[str, Any], send: Callable[[str, Envelope], bool]) -> None:
        self.sent: list[Envelope] = []
        self.waits: list[int] = []
        self.states: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.data: Any = data
        self.status = "RUNNING"
        self.error = ""
        self.wait = 0
        self.token: str | None = None
        self._definition = definition
        self.input = copy.deepcopy(data)
        self._send = send

    def begin(self) -> None:
        """Runs from the first state."""
        self._note("ExecutionStarted", input=json.dumps(self.input))
        self._go_on(self._definition["StartAt"])

    def succeed(self, output: dict[str, Any]) -> None:
        """Continues with the task's answer."""
        assert self.token, f"{self.states[-1]} waits for no answer"
        self._go_on(self._succeeded(self._state, output))

    def time_out(self) -> None:
        """Continues after the time of the waiting state has passed."""
        if self.token:
            self._note("TaskTimedOut", error="States.Timeout")
            self._go_on(self._caught(self._state, "States.Timeout"))
        else:
            self._go_on(str(self._state["Next"]))

    @property
    def _state(self) -> dict[str, Any]:
        found: dict[str, Any] = self._definition["States"][self.states[-1]]
        return found

    def _go_on(self, name: str) -> None:
        self.token = None
        while name:
            self.states.append(name)
            assert len(self.states) < 2000, "it runs in circles"
            state = self._state
            name = getattr(self, f"_{state['Type'].lower()}")(state)

    def _note(self, kind: str, **details: Any) -> None:
        event: dict[str, Any] = {"type": kind, "timestamp": clock.utc_now()}
        if details:
            family = "stateEntered" if kind.endswith("StateEntered") else kind[0].lower() + kind[1:]
            event[f"{family}EventDetails"] = details
        self.events.append(event)

    def _task(self, state: dict[str, Any]) -> str:
        resource = state["Resource"]
        waits = resource.endswith(".waitForTaskToken")
        self.token = str(uuid.uuid4()) if waits else None
        parameters = self._fill(state["Parameters"], self.data)
        envelope = Envelope.model_validate(parameters["MessageBody"])
        envelope.message()
        self.sent.append(envelope)
        self._note("TaskScheduled", resource=resource.rpartition(":")[2], parameters=json.dumps(parameters))
        if waits:
            self.wait = self._path(state["TimeoutSecondsPath"], self.data)
            self.waits.append(self.wait)
        if not self._send(parameters["QueueUrl"], envelope):
            self.token = None
            return self._caught(state, "States.TaskFailed")
        return "" if waits else self._succeeded(state, {"MessageId": "m"})

    def _succeeded(self, state: dict[str, Any], output: dict[str, Any]) -> str:
        self._note("TaskSucceeded", output=json.dumps(output))
        self._put(state.get("ResultPath", "$"), self._fill(state.get("ResultSelector", {}), output))
        return str(state["Next"])

    def _caught(self, state: dict[str, Any], error: str) -> str:
        """Continues where an error leads after all retries have failed."""
        [caught] = [c for c in state["Catch"] if c["ErrorEquals"] in ([error], ["States.ALL"])]
        self._put(caught.get("ResultPath", "$"), {"Error": error, "Cause": ""})
        return str(caught["Next"])

    def _pass(self, state: dict[str, Any]) -> str:
        self._note("PassStateEntered", name=self.states[-1], input=json.dumps(self.data))
        self._put(state.get("ResultPath", "$"), self._fill(state["Parameters"], self.data))
        return str(state["Next"])

    def _choice(self, state: dict[str, Any]) -> str:
        for rule in state["Choices"]:
            value = self._path(rule["Variable"], self.data)
            if rule.get("StringEquals") == value or value > rule.get("NumericGreaterThan", value):
                return str(rule["Next"])
        return str(state["Default"])

    def _wait(self, state: dict[str, Any]) -> str:
        self.wait = self._path(state["SecondsPath"], self.data)
        return ""

    def _succeed(self, state: dict[str, Any]) -> str:
        self.status = "SUCCEEDED"
        self._note("ExecutionSucceeded")
        return ""

    def _fail(self, state: dict[str, Any]) -> str:
        self.status, self.error = "FAILED", state["Error"]
        self._note("ExecutionFailed", error=self.error)
        return ""

    def _put(self, path: str, value: Any) -> None:
        if path == "$":
            self.data = value
        else:
            self.data = {**self.data, path.removeprefix("$."): value}

    def _fill(self, template: Any, data: Any) -> Any:
        if not isinstance(template, dict):
            return template
        return {
            key.removesuffix(".$"): self._expression(value, data) if key.endswith(".$") else self._fill(value, data)
            for key, value in template.items()
        }

    def _expression(self, text: str, data: Any) -> Any:
        if not text.startswith("States."):
            return self._path(text, data)
        function, arguments = re.fullmatch(r"States\.(\w+)\((.*)\)", text).groups()  # type: ignore[union-attr]
        values = [self._argument(a, data) for a in _split(arguments)]
        match function:
            case "UUID":
                return str(uuid.uuid4())
            case "MathAdd":
                return values[0] + values[1]
            case "ArrayGetItem":
                return values[0][values[1]]
            case "Format":
                return values[0].format(*values[1:])
        raise AssertionError(f"unknown function {function}")

    def _argument(self, text: str, data: Any) -> Any:
        if text.startswith("'"):
            return text[1:-1]
        return int(text) if re.fullmatch(r"-?\d+", text) else self._expression(text, data)

    def _path(self, path: str, data: Any) -> Any:
        if path.startswith("$$."):
            data = {
                "Execution": {"Input": self.input},
                "State": {"EnteredTime": "2025-01-01T00:00:00Z"},
                "Task": {"Token": self.token},
            }
            path = path[1:]
        for part in re.findall(r"\.(\w+)|\[(\d+)\]", path):
            try:
                data = data[part[0]] if part[0] else data[int(part[1])]
            except (KeyError, IndexError, TypeError) as error:
                raise Unresolved(f"{path} is not in {data}") from error
        return data


class Walk(Execution):
    """An execution whose tasks are answered by `answer`, without real waiting."""

    def __init__(self, definition: dict[str, Any], data: dict[str, Any], answer: Callable[[Envelope], Answer]) -> None:
        super().__init__(definition, data, self._ask)
        self._answer = answer
        self._answered: Answer = None

    def run(self) -> str:
        """Runs to the end and returns the name of the last state."""
        self.begin()
        while self.status == "RUNNING":
            if self.token and self._answered is not None:
                self.succeed(self._answered)
            else:
                self.time_out()
        return self.states[-1]

    def _ask(self, queue: str, envelope: Envelope) -> bool:
        if self.token:
            self._answered = self._answer(envelope)
            return self._answered is not UNSENT
        return True


def _split(arguments: str) -> Iterator[str]:
    """Splits at the commas outside parentheses and quotes."""
    yield from (a.strip() for a in re.findall(r"(?:'[^']*'|[^,()]|\([^()]*\))+", arguments))
