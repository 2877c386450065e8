"""SQS's dead-letter queues: one per queue, per subscription and per rule target. Reading one means receiving from it.

A received message is invisible to others until it is deleted or returned, so two operators who read at the same time
share the messages between them: none is lost, and none is redriven twice unless its holder stalls for longer than HOLD.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from orderflow.broker import BATCH, BATCH_BYTES, HOLD, DeadLetter, DeadLetterQueue
from orderflow.broker.aws.clients import Clients, failures_by_id

REASON: Final = "reason"
"""The attribute in which a consumer says why it dead-lettered a message."""

RECEIVES: Final = "receives"
"""The attribute that says how often the message had been received when it was dead-lettered."""

_EXPLAINED_BY: Final = (REASON, "ERROR_MESSAGE", "ErrorMessage", "ERROR_CODE", "ErrorCode")
"""Attributes that hold the reason, as set by a consumer, by EventBridge or by SNS.
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html"""

_COUNTS: Final = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")


class SqsDeadLetters(DeadLetterQueue):
    """See `DeadLetterQueue`."""

    def __init__(self, clients: Clients, service: str, name: str) -> None:
        self.name = name
        self._clients = clients
        self._service = service

    @property
    def _url(self) -> str:
        return self._clients.queue_url(f"{self._clients.stack}-{self.name}")

    def depth(self) -> int:
        with self._clients.guard("sqs"):
            answer = self._clients.sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=_COUNTS)
        return sum(int(answer["Attributes"][count]) for count in _COUNTS)

    def take(self, limit: int) -> list[DeadLetter]:
        with self._clients.guard("sqs"):
            answer = self._clients.sqs.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(limit, BATCH),
                VisibilityTimeout=HOLD,
                WaitTimeSeconds=1,  # a short poll asks only some of SQS's servers, and may find nothing
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
        return [self._dead_letter(message) for message in answer.get("Messages", ())]

    def give_back(self, letters: Sequence[DeadLetter]) -> None:
        for chunk in _chunks(letters):
            entries = [{**entry, "VisibilityTimeout": 0} for entry in _entries(chunk)]
            with self._clients.guard("sqs"):
                self._clients.sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)

    def redrive(self, letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
        sent: list[DeadLetter] = []
        source = self._clients.queue_url(f"{self._clients.stack}-{self._service}")
        for chunk in _chunks(letters):
            entries = [{"Id": str(i), "MessageBody": letter.body} for i, letter in enumerate(chunk)]
            with self._clients.guard("sqs"):
                answer = self._clients.sqs.send_message_batch(QueueUrl=source, Entries=entries)
            failed = {failure.index for failure in failures_by_id("sqs", answer)}
            taken = [letter for i, letter in enumerate(chunk) if i not in failed]
            self.discard(taken)
            sent += taken
        return sent

    def discard(self, letters: Sequence[DeadLetter]) -> None:
        for chunk in _chunks(letters):
            with self._clients.guard("sqs"):
                self._clients.sqs.delete_message_batch(QueueUrl=self._url, Entries=_entries(chunk))

    def _dead_letter(self, message: Mapping[str, Any]) -> DeadLetter:
        system = message.get("Attributes", {})
        own = {name: str(value.get("StringValue", "")) for name, value in message.get("MessageAttributes", {}).items()}
        reason = next((own[name] for name in _EXPLAINED_BY if own.get(name)), None)
        by_consumer = own.get(RECEIVES, "").isdigit()
        if reason is None:
            moved = "DeadLetterQueueSourceArn" in system or self.name == f"{self._service}-dlq"
            reason = "received too often without an answer (maxReceiveCount)" if moved else "could not be delivered"
        return DeadLetter(
            queue=self.name,
            id=message["MessageId"],
            body=_delivered(message["Body"]),
            reason=reason,
            at=datetime.fromtimestamp(int(system.get("SentTimestamp", 0)) / 1000, UTC),
            receives=int(own[RECEIVES]) if by_consumer else None,
            receipt=message["ReceiptHandle"],
        )


def _delivered(body: str) -> str:
    """The body for the queue: a rule's dead letter is the whole event, but its target gets `$.detail`."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if isinstance(event, dict) and "detail-type" in event and isinstance(event.get("detail"), dict):
        return json.dumps(event["detail"], separators=(",", ":"))
    return body


def _entries(letters: Sequence[DeadLetter]) -> list[dict[str, Any]]:
    return [{"Id": str(i), "ReceiptHandle": letter.receipt} for i, letter in enumerate(letters)]


def _chunks(letters: Sequence[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """Batches of up to ten messages, within the size limit of a call."""
    chunk: list[DeadLetter] = []
    size = 0
    for letter in letters:
        length = len(letter.body.encode("utf-8", "replace"))
        if chunk and (len(chunk) == BATCH or size + length > BATCH_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(letter)
        size += length
    if chunk:
        yield chunk
