"""Step Functions: starts an order's execution, and answers the task that waits.

There is no batch API, so each message is a call of its own; a few calls run in parallel. An order's execution has the
order's id as its name, so starting it twice has one effect. A token that is late, repeated or forged is not a failure:
its task has been answered, has timed out, or never existed.
https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
https://docs.aws.amazon.com/step-functions/latest/apireference/API_SendTaskSuccess.html
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from botocore.exceptions import ClientError

from orderflow import metrics
from orderflow.broker import BatchRefused, Parcel, SendFailure
from orderflow.broker.aws.clients import Clients, code_of
from orderflow.contracts import OrderPlaced
from orderflow.envelope import Envelope
from orderflow.errors import BrokerUnavailable, NewerVersion, Rejected
from orderflow.routing import Channel
from orderflow.saga import fact_of
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

_CONCURRENCY: Final = 4
"""Calls in flight at the same time, for starts and for answers each."""

_SPENT: Final = frozenset({"InvalidToken", "TaskTimedOut", "TaskDoesNotExist", "ValidationException"})
"""Error codes for a late, repeated or forged token; the last one for a text that can't be a token."""

spent_tokens: Final = metrics.Counts("spent_tokens", "Answers that no task waited for", "code")


@dataclass(frozen=True, slots=True)
class Execution:
    """The status of an execution: RUNNING, SUCCEEDED, FAILED, TIMED_OUT or ABORTED; `error` says why it failed."""

    status: str
    error: str = ""


class StepFunctions:
    """The stack's state machine: as a destination, and (for the guardian) with the state of its executions."""

    def __init__(
        self,
        clients: Clients,
        settings: Settings,
        threads: Callable[[str], Executor] = lambda name: ThreadPoolExecutor(_CONCURRENCY, thread_name_prefix=name),
    ) -> None:
        self._clients = clients
        self._settings = settings
        self._lock = threading.Lock()
        self._threads = threads
        self._pools: dict[Channel, Executor] = {}
        """One pool each for starts and answers: they are throttled separately, and must not wait for each other. Most
        processes need neither."""

    def start(self, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        """Starts an execution for each OrderPlaced; one that exists already counts as started."""
        return self._each(
            Channel.START, batch, lambda parcel: self._start_one(parcel.envelope, parcel.envelope.subject)
        )

    def answer(self, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        """Sends each outcome to the task that waits for it."""
        return self._each(Channel.TOKEN, batch, self._answer_one)

    def _start_one(self, envelope: Envelope, name: str) -> None:
        try:
            self._clients.stepfunctions.start_execution(
                stateMachineArn=self._clients.arn("states", f"stateMachine:{self._clients.stack}-orders"),
                name=name,
                input=json.dumps(execution_input(envelope, self._settings), separators=(",", ":")),
            )
        except ClientError as error:
            if code_of(error) != "ExecutionAlreadyExists":
                raise

    def restart(self, envelope: Envelope, name: str) -> None:
        """Starts an execution under another name. Raises BrokerUnavailable."""
        with self._clients.guard("stepfunctions"):
            self._start_one(envelope, name)

    def describe(self, name: str) -> Execution | None:
        """An execution's state; None if no execution has that name. Raises BrokerUnavailable."""
        with self._clients.guard("stepfunctions"):
            try:
                answer = self._clients.stepfunctions.describe_execution(executionArn=self._execution(name))
            except ClientError as error:
                if code_of(error) != "ExecutionDoesNotExist":
                    raise
                return None
        return Execution(str(answer["status"]), str(answer.get("error", "")))

    def history(self, name: str) -> list[dict[str, Any]]:
        """An execution's events, oldest first; empty if no execution has that name. Raises BrokerUnavailable."""
        events: list[dict[str, Any]] = []
        more: dict[str, str] = {}
        while True:
            with self._clients.guard("stepfunctions"):
                try:
                    page = self._clients.stepfunctions.get_execution_history(
                        executionArn=self._execution(name), maxResults=1000, includeExecutionData=True, **more
                    )
                except ClientError as error:
                    if code_of(error) != "ExecutionDoesNotExist":
                        raise
                    return events
            events += page["events"]
            if not page.get("nextToken"):
                return events
            more = {"nextToken": page["nextToken"]}

    def _execution(self, name: str) -> str:
        return self._clients.arn("states", f"execution:{self._clients.stack}-orders:{name}")

    def close(self) -> None:
        """Ends the threads."""
        for pool in self._pools.values():
            pool.shutdown(wait=False)

    def _answer_one(self, parcel: Parcel) -> None:
        envelope = parcel.envelope
        if envelope.tasktoken is None:
            # The command came from no task: somebody else put it into the queue. Nobody waits for the answer.
            self._spent("NoToken", envelope)
            return
        output = json.dumps(task_output(envelope), separators=(",", ":"))
        try:
            self._clients.stepfunctions.send_task_success(taskToken=envelope.tasktoken, output=output)
        except ClientError as error:
            if code_of(error) not in _SPENT:
                raise
            self._spent(code_of(error), envelope)

    def _spent(self, code: str, envelope: Envelope) -> None:
        with self._lock:
            spent_tokens[(code,)] += 1
        log.info("no task waits for this answer", code=code, order_id=envelope.subject, type=envelope.type)

    def _each(self, channel: Channel, batch: Sequence[Parcel], call: Callable[[Parcel], None]) -> Sequence[SendFailure]:
        """One call per message. Raises BrokerUnavailable if all fail that way; otherwise each failure is reported for
        its own message."""

        def attempt(parcel: Parcel) -> SendFailure | BrokerUnavailable | None:
            try:
                with self._clients.sending("stepfunctions"):
                    call(parcel)
            except BrokerUnavailable as error:
                return error
            except BatchRefused as error:
                return SendFailure(0, str(error), error.final, error.code)
            except (NewerVersion, Rejected) as error:
                # A newer process staged it and this one took it over: a newer process can send it.
                return SendFailure(0, str(error), final=False, code=type(error).__name__)
            return None

        results = [attempt(batch[0])] if len(batch) == 1 else list(self._pool(channel).map(attempt, batch))
        unavailable = [result for result in results if isinstance(result, BrokerUnavailable)]
        if len(unavailable) == len(batch):
            raise unavailable[0]
        return [
            SendFailure(i, str(result), final=False, code=result.code, destination=True)
            if isinstance(result, BrokerUnavailable)
            else replace(result, index=i)
            for i, result in enumerate(results)
            if result is not None
        ]

    def _pool(self, channel: Channel) -> Executor:
        with self._lock:
            if channel not in self._pools:
                self._pools[channel] = self._threads(channel.value)
            return self._pools[channel]


def execution_input(envelope: Envelope, settings: Settings) -> dict[str, Any]:
    """The state machine's input: the order (see deploy/stack/state_machine.py), and the owners' timeouts."""
    message = envelope.message()
    if not isinstance(message, OrderPlaced):
        raise TypeError(f"{envelope.type} starts no execution")
    forward = forward_timeouts(settings)
    order = message.order.model_dump(mode="json")
    return {
        "now": {
            "id": envelope.id,
            "fact": envelope.name,
            "reason": "",
            "traceparent": envelope.traceparent,
            "resend": 0,
            "left": len(forward) - 1,
            "wait": forward[0],
        },
        "order": {"id": envelope.subject, "event_bus": envelope.eventbus.value, **order},
        "times": {
            "forward": forward,
            "resends": len(forward) - 1,
            "undo": _whole(settings.undo_resend_every),  # read by older definitions of the state machine
            "undo_waits": [_whole(seconds) for seconds in settings.undo_timeouts],
            "undo_attempts": settings.undo_attempts,
        },
    }


def task_output(envelope: Envelope) -> dict[str, Any]:
    """What the state machine gets of an outcome: the fact that it establishes, not its content."""
    message = envelope.message()
    return {
        "type": envelope.type,
        "id": envelope.id,
        "source": envelope.source,
        "fact": fact_of(message),
        "reason": str(getattr(message, "reason", "")),
        "traceparent": envelope.traceparent,
    }


def forward_timeouts(settings: Settings) -> list[int]:
    """The timeouts of a step's attempts, in whole seconds: resent at the times of RESEND_AFTER that lie before the
    deadline, and compensated at the deadline."""
    ends = [*(seconds for seconds in settings.resend_after if seconds < settings.undo_after), settings.undo_after]
    return [_whole(end - begin) for begin, end in zip([0.0, *ends], ends, strict=False)]


def _whole(seconds: float) -> int:
    return max(1, math.ceil(seconds))
