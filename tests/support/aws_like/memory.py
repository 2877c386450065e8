"""An AWS in this process: its boto3 clients answer from queues in memory and from the filters as deployed.

The product's own broker (`broker.aws.broker`) talks to it, so that its handling of AWS's errors is tested too. Its
time is virtual: nothing really waits.
"""

from __future__ import annotations

import heapq
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from typing import Any, Final

from botocore.exceptions import ClientError

from orderflow import clock
from orderflow.broker import Delivery
from orderflow.broker.aws.broker import AwsBroker
from orderflow.broker.aws.clients import Clients
from orderflow.broker.aws.dead_letters import REASON, RECEIVES
from orderflow.broker.aws.step_functions import StepFunctions
from orderflow.broker.memory import MemoryDeadLetters, MemoryQueue
from orderflow.routing import SERVICES
from orderflow.settings import Settings
from tests.support.aws_like.layer import Layer, Shape
from tests.support.aws_like.rules import Behaviour, Fault, Refused, Rules
from tests.support.machine import Inline, Machine, admits, deployed_filters

_ACCOUNT: Final = "http://memory/000000000000/"

Filters = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]


class Account:
    """SQS, SNS, EventBridge and Step Functions. Operations are methods by their boto3 name."""

    def __init__(self, queues: Mapping[str, MemoryQueue], machine: Machine, rules: Rules) -> None:
        self.queues = queues
        self.machine = machine
        self.rules = rules
        self.now = 0.0
        """Seconds of latency so far, plus those that a test has let pass."""
        self._late: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self.filters: Filters = deployed_filters()
        self.filters_are_late = False
        self._layer = Layer(rules, now=lambda: self.now, sleep=self.pass_time, later=self._later)

    def client(self, service: str) -> Client:
        return Client(self, service)

    def call(self, service: str, operation: str, params: Shape) -> Shape:
        """Makes a call through the rules. Raises Refused."""
        answer = self._layer.call(service, operation, params, self.forward)
        return {**answer, "ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": {"date": formatdate(usegmt=True)}}}

    def forward(self, operation: str, params: Shape) -> Shape:
        """Carries a call out. Raises Refused."""
        return getattr(self, f"_{operation}")(params) or {}

    # Time

    def pass_time(self, seconds: float) -> None:
        """Lets time pass; events that are due by then arrive."""
        self.now += seconds
        while self._late and self._late[0][0] <= self.now:
            heapq.heappop(self._late)[2]()

    @property
    def late(self) -> int:
        """Events that have not arrived yet."""
        return len(self._late)

    def _later(self, seconds: float, deliver: Callable[[], object]) -> None:
        heapq.heappush(self._late, (self.now + seconds, next(self._numbers), deliver))

    # SQS

    def _queue(self, params: Shape) -> tuple[MemoryQueue, bool]:
        """A service's queue, or its dead-letter queue."""
        name = params["QueueUrl"].rpartition("/")[2].partition("-")[2]
        return self.queues[name.removesuffix("-dlq")], name.endswith("-dlq")

    def _GetQueueUrl(self, params: Shape) -> Shape:
        return {"QueueUrl": _ACCOUNT + params["QueueName"]}

    def _GetQueueAttributes(self, params: Shape) -> Shape:
        queue, dead = self._queue(params)
        visible, hidden = (len(queue.parked), 0) if dead else (len(queue.waiting), len(queue.in_flight))
        counts = {"ApproximateNumberOfMessages": visible, "ApproximateNumberOfMessagesNotVisible": hidden}
        return {"Attributes": {name: str(counts.get(name, 0)) for name in params["AttributeNames"]}}

    def _SendMessage(self, params: Shape) -> None:
        """Sends to a dead-letter queue: nothing else is sent alone."""
        queue, _ = self._queue(params)
        told = {name: value["StringValue"] for name, value in params.get("MessageAttributes", {}).items()}
        receipt = f"dead-{next(self._numbers)}"
        queue.parked.append((Delivery(params["MessageBody"], receipt, int(told[RECEIVES])), told[REASON]))
        queue.parked_at[receipt] = clock.utc_now()

    def _SendMessageBatch(self, params: Shape) -> Shape:
        queue, _ = self._queue(params)
        for entry in params["Entries"]:
            queue.put(entry["MessageBody"])
        return _successful(params["Entries"])

    def _ReceiveMessage(self, params: Shape) -> Shape:
        queue, _ = self._queue(params)
        return {
            "Messages": [
                {
                    "MessageId": delivery.broker_id,
                    "ReceiptHandle": delivery.receipt,
                    "Body": delivery.body,
                    "Attributes": {
                        "ApproximateReceiveCount": str(delivery.receive_count),
                        "SentTimestamp": str(round((time.time() - delivery.age) * 1000)),
                    },
                }
                for delivery in queue.receive(params["MaxNumberOfMessages"], 0)
            ]
        }

    def _DeleteMessageBatch(self, params: Shape) -> Shape:
        queue, _ = self._queue(params)
        queue.delete(_held(queue, params["Entries"]))
        return _successful(params["Entries"])

    def _ChangeMessageVisibility(self, params: Shape) -> None:
        queue, _ = self._queue(params)
        queue.extend(_held(queue, [params]), params["VisibilityTimeout"])

    def _ChangeMessageVisibilityBatch(self, params: Shape) -> Shape:
        for entry in params["Entries"]:
            self._ChangeMessageVisibility({**entry, "QueueUrl": params["QueueUrl"]})
        return _successful(params["Entries"])

    # SNS and EventBridge

    def _PublishBatch(self, params: Shape) -> Shape:
        for entry in params["PublishBatchRequestEntries"]:
            told = {name: value["StringValue"] for name, value in entry["MessageAttributes"].items()}
            self._deliver(0, told, entry["Message"])
        return _successful(params["PublishBatchRequestEntries"])

    def _PutEvents(self, params: Shape) -> Shape:
        for entry in params["Entries"]:
            detail = json.loads(entry["Detail"])
            event = {"source": entry["Source"], "detail-type": entry["DetailType"], "detail": detail}
            self._deliver(1, event, entry["Detail"])
        return {"FailedEntryCount": 0, "Entries": [{"EventId": str(next(self._numbers))} for _ in params["Entries"]]}

    def _deliver(self, way: int, event: Mapping[str, Any], body: str) -> None:
        """Delivers to the queues whose filter policy (0) or event pattern (1) admits the event."""
        if self.filters_are_late:
            self.rules.count(Behaviour.LATE_FILTER)
        for service, both in self.filters.items():
            if admits(both[way], event):
                self.queues[service].put(body)

    # Step Functions

    def _StartExecution(self, params: Shape) -> None:
        _states(self.machine.start_execution, params)

    def _SendTaskSuccess(self, params: Shape) -> None:
        _states(self.machine.send_task_success, params)

    def _DescribeExecution(self, params: Shape) -> Shape:
        return _states(self.machine.describe_execution, params)

    def _GetExecutionHistory(self, params: Shape) -> Shape:
        return _states(self.machine.get_execution_history, params)


class Client:
    """A boto3 client of one service; its parameters aren't validated, as in the product."""

    def __init__(self, account: Account, service: str) -> None:
        self._account = account
        self._service = service

    def close(self) -> None:
        """Does nothing: there is nothing to close."""

    def __getattr__(self, name: str) -> Callable[..., Shape]:
        if name.startswith("_"):
            raise AttributeError(name)
        operation = "".join(part.capitalize() for part in name.split("_"))

        def call(**params: Any) -> Shape:
            try:
                return self._account.call(self._service, operation, params)
            except Refused as refused:
                fault = refused.fault
                error = {
                    "Error": {"Code": fault.code, "Message": fault.code},
                    "ResponseMetadata": {"HTTPStatusCode": fault.status, "HTTPHeaders": {}},
                }
                raise ClientError(error, operation) from refused

        return call


class _MemoryClients(Clients):
    def __init__(self, settings: Settings, account: Account) -> None:
        self._account = account
        super().__init__(settings)

    def _client(self, service: str, *_: Any, **__: Any) -> Client:
        return self._account.client(service)


class AwsLikeBroker(AwsBroker):
    """The product's broker on an AWS in this process. Tests may use `queues`, `machine` and `rules` directly; the rules
    do not apply to that."""

    def __init__(self, settings: Settings, rules: Rules) -> None:
        self.queues = {service: MemoryQueue() for service in SERVICES}
        self.machine = Machine(self.queues)
        self.rules = rules
        self.account = Account(self.queues, self.machine, rules)
        self._dead = {service: MemoryDeadLetters(service, queue) for service, queue in self.queues.items()}
        super().__init__(settings, _MemoryClients(settings, self.account))
        self.step_functions = StepFunctions(self._clients, settings, threads=lambda name: Inline())

    @property
    def filters(self) -> Filters:
        """The filters in effect: a filter policy and an event pattern by service. Those of a changed stack take up to
        15 minutes to apply: a test that plays this puts the former ones here."""
        return self.account.filters

    @filters.setter
    def filters(self, filters: Filters) -> None:
        self.account.filters = filters
        self.account.filters_are_late = filters != deployed_filters()

    def dead_letters(self, service: str) -> Sequence[MemoryDeadLetters]:  # type: ignore[override]
        return [self._dead[service]]


def _successful(entries: Sequence[Shape]) -> Shape:
    return {"Successful": [{"Id": entry["Id"], "MessageId": entry["Id"]} for entry in entries], "Failed": []}


def _held(queue: MemoryQueue, entries: Sequence[Shape]) -> list[Delivery]:
    """Of what the entries name, what is in flight: an older receipt of a message that is visible again does nothing."""
    found = (queue.in_flight.get(entry["ReceiptHandle"]) for entry in entries)
    return [delivery for delivery in found if delivery]


def _states(operation: Callable[..., Shape | None], params: Shape) -> Shape:
    try:
        return operation(**params) or {}
    except ClientError as error:
        raise Refused(Fault(error.response["Error"]["Code"])) from error
