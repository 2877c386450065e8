"""The bare loop's AWS calls: plain boto3, with the client settings that orderflow has, and the same count of calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from lab.bare.messages import Outgoing
from orderflow.contracts import EventBus
from orderflow.routing import Channel

BATCH: Final = 10
_REGION: Final = "us-east-1"
_AT_ONCE: Final = 4
"""Step Functions calls in flight at the same time, as in orderflow: there is no batch API."""


class Aws:
    """The clients of one process, for one stack behind one endpoint."""

    def __init__(self, endpoint: str, stack: str, long_poll: int) -> None:
        self.calls: Counter[str] = Counter()
        self._stack = stack
        self._long_poll = long_poll
        quick = Config(
            connect_timeout=2,
            read_timeout=10,
            retries={"total_max_attempts": 1},
            max_pool_connections=10,
            parameter_validation=False,
        )
        session = boto3.session.Session("test", "test", region_name=_REGION)

        def client(service: str, config: Config = quick) -> Any:
            made = session.client(service, endpoint_url=endpoint, config=config)
            made.meta.events.register("before-send", self._count)
            return made

        self._sqs = client("sqs")
        self._sns = client("sns")
        self._events = client("events")
        self._polling = client("sqs", quick.merge(Config(read_timeout=long_poll + 10)))
        self._states = client("stepfunctions")
        self._pool = ThreadPoolExecutor(_AT_ONCE)
        self._root, _, _ = str(self._sqs.get_queue_url(QueueName=f"{stack}-ready")["QueueUrl"]).rpartition("/")
        self._account = self._root.rpartition("/")[2]

    def receive(self, service: str) -> list[dict[str, Any]]:
        """Up to ten messages; waits for the first."""
        answer = self._polling.receive_message(
            QueueUrl=self._queue(service),
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=self._long_poll,
            AttributeNames=["ApproximateReceiveCount"],
        )
        return list(answer.get("Messages", ()))

    def delete(self, service: str, receipts: Sequence[str]) -> None:
        """Acknowledges up to ten messages."""
        entries = [{"Id": str(i), "ReceiptHandle": receipt} for i, receipt in enumerate(receipts)]
        self._sqs.delete_message_batch(QueueUrl=self._queue(service), Entries=entries)

    def send(self, batch: Sequence[Outgoing]) -> None:
        """Sends up to ten messages to one destination. Raises boto3's errors, or RuntimeError if a part was refused."""
        first = batch[0]
        if first.channel is Channel.QUEUE:
            entries = [{"Id": str(i), "MessageBody": m.body} for i, m in enumerate(batch)]
            self._taken(self._sqs.send_message_batch(QueueUrl=self._queue(first.target), Entries=entries))
        elif first.channel is Channel.BUS and first.target == EventBus.SNS:
            topic = self._arn("sns", f"{self._stack}-events")
            entries = [_sns_entry(str(i), m) for i, m in enumerate(batch)]
            self._taken(self._sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=entries))
        elif first.channel is Channel.BUS:
            events = [
                {"EventBusName": self._stack, "Source": "orderflow", "DetailType": m.type, "Detail": m.body}
                for m in batch
            ]
            self._taken(self._events.put_events(Entries=events))
        elif first.channel is Channel.START:
            self._each(self._start, batch)
        elif first.channel is Channel.TOKEN:
            self._each(self._answer, batch)

    def _start(self, message: Outgoing) -> None:
        machine = self._arn("states", f"stateMachine:{self._stack}-orders")
        self._states.start_execution(stateMachineArn=machine, name=message.order_id, input=message.body)

    def _answer(self, message: Outgoing) -> None:
        try:
            self._states.send_task_success(taskToken=message.token, output=message.body)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in ("InvalidToken", "TaskTimedOut"):
                raise

    def _each(self, call: Any, batch: Sequence[Outgoing]) -> None:
        if len(batch) == 1:
            call(batch[0])
        else:
            list(self._pool.map(call, batch))

    def _taken(self, answer: dict[str, Any]) -> None:
        if answer.get("Failed") or answer.get("FailedEntryCount"):
            raise RuntimeError(f"not all of a batch was accepted: {answer}")

    def _queue(self, service: str) -> str:
        return f"{self._root}/{self._stack}-{service}"

    def _arn(self, service: str, name: str) -> str:
        return f"arn:aws:{service}:{_REGION}:{self._account}:{name}"

    def _count(self, request: Any, event_name: str = "", **other: Any) -> None:
        _, service, operation = event_name.split(".", 2)
        self.calls[f"{service}:{operation}"] += 1


def _sns_entry(entry_id: str, message: Outgoing) -> dict[str, Any]:
    return {
        "Id": entry_id,
        "Message": message.body,
        "MessageAttributes": {
            "type": {"DataType": "String", "StringValue": message.type},
            "workflow": {"DataType": "String", "StringValue": message.workflow},
        },
    }
