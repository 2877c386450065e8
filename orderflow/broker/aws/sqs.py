"""SQS: the queue of each service, for commands and for events from the buses, and its dead-letter queue.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/Welcome.html
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from orderflow.broker import BATCH, Delivery, Parcel, Queue, SendFailure
from orderflow.broker.aws.clients import Clients, failures_by_id
from orderflow.broker.aws.dead_letters import REASON, RECEIVES
from orderflow.contracts import NUL


class SqsQueue(Queue):
    """See `Queue`; also a destination for commands. A received message is hidden for `visibility` seconds."""

    def __init__(self, clients: Clients, service: str, *, visibility: int) -> None:
        self._clients = clients
        self._name = f"{clients.stack}-{service}"
        self._visibility = visibility

    @property
    def _url(self) -> str:
        return self._clients.queue_url(self._name)

    def send(self, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        """Sends up to ten messages in one call; failures are matched by Id. Raises what `Broker.send` raises."""
        with self._clients.sending("sqs"):
            answer = self._clients.sqs.send_message_batch(
                QueueUrl=self._url, Entries=[{"Id": str(i), "MessageBody": p.body} for i, p in enumerate(batch)]
            )
        return failures_by_id("sqs", answer)

    def receive(self, limit: int, wait: int) -> list[Delivery]:
        url = self._url
        with self._clients.polling():
            answer = self._clients.polling_sqs.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=min(limit, BATCH),
                WaitTimeSeconds=wait,
                VisibilityTimeout=self._visibility,
                AttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
            )
        clock = _clock_of(answer)
        return [
            Delivery(
                body=message["Body"],
                receipt=message["ReceiptHandle"],
                receive_count=int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
                broker_id=message["MessageId"],
                age=_age(message, clock),
            )
            for message in answer.get("Messages", ())
        ]

    def delete(self, deliveries: Sequence[Delivery]) -> None:
        for chunk in _chunks(deliveries):
            entries = [{"Id": str(i), "ReceiptHandle": d.receipt} for i, d in enumerate(chunk)]
            with self._clients.guard("sqs"):
                # An entry that fails is redelivered; the inbox knows it by then, and it is acknowledged.
                self._clients.sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)

    def extend(self, deliveries: Sequence[Delivery], seconds: int) -> None:
        for chunk in _chunks(deliveries):
            entries = [
                {"Id": str(i), "ReceiptHandle": d.receipt, "VisibilityTimeout": seconds} for i, d in enumerate(chunk)
            ]
            with self._clients.guard("sqs"):
                self._clients.sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)

    def park(self, delivery: Delivery, reason: str) -> None:
        attributes: dict[str, Any] = {
            REASON: {"DataType": "String", "StringValue": _printable(reason)[:1000] or "-"},
            RECEIVES: {"DataType": "Number", "StringValue": str(delivery.receive_count)},
        }
        with self._clients.sending("sqs"):
            self._clients.sqs.send_message(
                QueueUrl=self._clients.queue_url(f"{self._name}-dlq"),
                MessageBody=delivery.body,
                MessageAttributes=attributes,
            )
        self.delete([delivery])


def _clock_of(answer: Mapping[str, Any]) -> float:
    """The broker's time, in seconds since 1970, by the `Date` of its answer; without one, this process's time.

    `Date` has a resolution of one second (RFC 9110), and AWS sets it when the answer is complete."""
    try:
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        return parsedate_to_datetime(headers["date"]).timestamp() + 1
    except (KeyError, ValueError):
        return time.time()


def _age(message: Mapping[str, Any], clock: float) -> float:
    sent = message.get("Attributes", {}).get("SentTimestamp")
    return max(0.0, clock - int(sent) / 1000) if sent else 0.0


def _chunks(deliveries: Sequence[Delivery]) -> list[Sequence[Delivery]]:
    return [deliveries[i : i + BATCH] for i in range(0, len(deliveries), BATCH)]


def _printable(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode().replace(NUL, "")
