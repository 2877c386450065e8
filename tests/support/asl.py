"""Walks through the generated state machine, as far as its states and expressions go: what it would send, and why.

No emulator: it knows just the state types, paths and functions that `localstack/state_machine.py` uses, and fails on
anything else, so that a test of the definition's own logic needs no LocalStack.
"""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from orderflow.envelope import Envelope

Answer = dict[str, Any] | None
"""A task's output; None if it times out; UNSENT if its message could not be sent."""

UNSENT: dict[str, Any] = {}


class Unresolved(AssertionError):
    """An expression that finds nothing in the data it is applied to."""


class Walk:
    """One execution. `sent` are the messages of its tasks, `states` the names of all states it entered."""

    def __init__(self, definition: dict[str, Any], data: dict[str, Any], answer: Callable[[Envelope], Answer]) -> None:
        self.sent: list[Envelope] = []
        self.waits: list[int] = []
        self.states: list[str] = []
        self.data: Any = data
        self._definition = definition
        self._input = copy.deepcopy(data)
        self._answer = answer

    def run(self) -> str:
        """To the end; the name of the last state."""
        name = self._definition["StartAt"]
        while name:
            self.states.append(name)
            assert len(self.states) < 2000, "it goes round in circles"
            state = self._definition["States"][name]
            name = getattr(self, f"_{state['Type'].lower()}")(state)
        return self.states[-1]

    def _task(self, state: dict[str, Any]) -> str:
        body = self._fill(state["Parameters"]["MessageBody"], self.data)
        envelope = Envelope.model_validate(body)
        envelope.message()
        self.sent.append(envelope)
        answer: Answer = {"MessageId": "m"}
        if state["Resource"].endswith(".waitForTaskToken"):
            self.waits.append(self._path(state["TimeoutSecondsPath"], self.data))
            answer = self._answer(envelope)
        if answer is None or answer is UNSENT:
            error = "States.Timeout" if answer is None else "States.TaskFailed"
            [caught] = [c for c in state["Catch"] if c["ErrorEquals"] == [error]]
            self._put(caught["ResultPath"], {"Error": error, "Cause": ""})
            return str(caught["Next"])
        self._put(state.get("ResultPath", "$"), self._fill(state.get("ResultSelector", {}), answer))
        return str(state["Next"])

    def _pass(self, state: dict[str, Any]) -> str:
        self._put(state.get("ResultPath", "$"), self._fill(state["Parameters"], self.data))
        return str(state["Next"])

    def _choice(self, state: dict[str, Any]) -> str:
        for rule in state["Choices"]:
            value = self._path(rule["Variable"], self.data)
            if rule.get("StringEquals") == value or value > rule.get("NumericGreaterThan", value):
                return str(rule["Next"])
        return str(state["Default"])

    def _wait(self, state: dict[str, Any]) -> str:
        self._path(state["SecondsPath"], self.data)
        return str(state["Next"])

    def _succeed(self, state: dict[str, Any]) -> str:
        return ""

    _fail = _succeed

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
                "Execution": {"Input": self._input},
                "State": {"EnteredTime": "2025-01-01T00:00:00Z"},
                "Task": {"Token": "token"},
            }
            path = path[1:]
        for part in re.findall(r"\.(\w+)|\[(\d+)\]", path):
            try:
                data = data[part[0]] if part[0] else data[int(part[1])]
            except (KeyError, IndexError, TypeError) as error:
                raise Unresolved(f"{path} is not in {data}") from error
        return data


def _split(arguments: str) -> Iterator[str]:
    """At the commas outside parentheses and quotes."""
    yield from (a.strip() for a in re.findall(r"(?:'[^']*'|[^,()]|\([^()]*\))+", arguments))
