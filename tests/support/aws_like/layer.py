"""Applies the rules to one call of AWS's API, whether AWS is in this process or an emulator behind a proxy.

Parameters and answers have the shapes of boto3. `forward` carries an operation out; it raises `Refused`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from tests.support.aws_like.rules import OVER_LIMIT, UNAVAILABLE, Behaviour, Fault, Refused, Rules

Shape = dict[str, Any]
Forward = Callable[[str, Shape], Shape]

BATCHES: Final[Mapping[str, str]] = {
    "SendMessageBatch": "Entries",
    "DeleteMessageBatch": "Entries",
    "ChangeMessageVisibilityBatch": "Entries",
    "PublishBatch": "PublishBatchRequestEntries",
    "PutEvents": "Entries",
}
"""Operations whose entries succeed or fail individually → the name of the entries."""

_EVENTS: Final = ("PublishBatch", "PutEvents")
"""Operations that accept messages which are delivered to queues later."""

_LATE: Final = 2
"""The most seconds by which an event is late."""

_NOT_VISIBLE: Final = "ApproximateNumberOfMessagesNotVisible"


class Layer:
    """`now` and `sleep` define the time here, in seconds; `later` runs a function after that many seconds."""

    def __init__(
        self,
        rules: Rules,
        *,
        now: Callable[[], float],
        sleep: Callable[[float], None],
        later: Callable[[float, Callable[[], object]], None],
    ) -> None:
        self.rules = rules
        self._now = now
        self._sleep = sleep
        self._later = later

    def call(self, service: str, operation: str, params: Shape, forward: Forward) -> Shape:
        """Returns the answer to a call. Raises Refused."""
        rules = self.rules
        self._sleep(rules.latency())
        if fault := rules.refusal(service, operation, self._now()):
            raise Refused(fault)
        if operation in BATCHES:
            answer = self._batch(service, operation, params, forward)
        elif operation == "ReceiveMessage":
            answer = self._receive(params, forward)
        elif operation == "SendTaskSuccess":
            answer = self._answer_task(params, forward)
        else:
            answer = forward(operation, params)
        if rules.happens(Behaviour.LOST_ANSWER):
            raise Refused(rules.one_of(UNAVAILABLE))
        return answer

    def _receive(self, params: Shape, forward: Forward) -> Shape:
        rules, queue = self.rules, params["QueueUrl"]
        asked, wait = int(params.get("MaxNumberOfMessages", 1)), int(params.get("WaitTimeSeconds", 0))
        if rules.in_flight is not None and self._in_flight(queue, forward) >= rules.in_flight:
            rules.count(Behaviour.OVER_LIMIT)
            if not wait:
                raise Refused(OVER_LIMIT)
            self._sleep(wait)  # a long poll at the quota returns no error and no messages
            return {}
        if not wait and rules.happens(Behaviour.FALSE_EMPTY):
            return {}
        few = rules.between(1, asked) if rules.happens(Behaviour.FEWER) else asked
        mixed = rules.happens(Behaviour.REORDER)
        answer = forward("ReceiveMessage", {**params, "MaxNumberOfMessages": asked if mixed else few})
        messages: list[Shape] = list(answer.get("Messages") or ())
        if not messages:
            return answer
        if mixed:
            rules.shuffle(messages)
            for message in messages[few:]:  # some messages are delivered ahead of earlier ones
                _show(queue, message["ReceiptHandle"], forward)
        for message in messages[:few]:
            if rules.happens(Behaviour.DUPLICATE):
                _show(queue, message["ReceiptHandle"], forward)
        return {**answer, "Messages": messages[:few]}

    def _in_flight(self, queue: str, forward: Forward) -> int:
        found = forward("GetQueueAttributes", {"QueueUrl": queue, "AttributeNames": [_NOT_VISIBLE]})
        return int(found["Attributes"][_NOT_VISIBLE])

    def _batch(self, service: str, operation: str, params: Shape, forward: Forward) -> Shape:
        key = BATCHES[operation]
        entries: Sequence[Shape] = params[key]
        faults = {i: fault for i in range(len(entries)) if (fault := self.rules.entry(service))}
        left = [i for i in range(len(entries)) if i not in faults]
        said: dict[int, Shape] = {}
        if operation == "DeleteMessageBatch":
            kept = [i for i in left if self.rules.happens(Behaviour.STAYS)]
            for i in kept:
                _show(params["QueueUrl"], entries[i]["ReceiptHandle"], forward)
                said[i] = {"Id": entries[i]["Id"]}
        elif operation in _EVENTS:
            for i in [i for i in left if self.rules.happens(Behaviour.DELAY)]:
                alone = {**params, key: [entries[i]]}
                self._later(self.rules.between(1, _LATE), lambda alone=alone: forward(operation, alone))  # type: ignore[misc]
                said[i] = {"Id": entries[i].get("Id"), "MessageId": f"late-{i}", "EventId": f"late-{i}"}
        now = [i for i in left if i not in said]
        answer = forward(operation, {**params, key: [entries[i] for i in now]}) if now else {}
        if operation == "PutEvents":
            return _events(len(entries), faults, said, dict(zip(now, answer.get("Entries", ()), strict=True)))
        more = [{"Id": e["Id"], "MessageId": e.get("MessageId", "")} for e in said.values()]
        failed = [
            {"Id": entries[i]["Id"], "Code": f.code, "Message": f.code, "SenderFault": f.sender}
            for i, f in faults.items()
        ]
        return {
            **answer,
            "Successful": [*(answer.get("Successful") or ()), *more],
            "Failed": [*(answer.get("Failed") or ()), *failed],
        }

    def _answer_task(self, params: Shape, forward: Forward) -> Shape:
        try:
            return forward("SendTaskSuccess", params)
        except Refused as refused:
            if refused.fault.code == "InvalidToken" and self.rules.happens(Behaviour.SPENT_TOKEN):
                raise Refused(Fault("TaskTimedOut")) from refused
            raise


def _show(queue: str, receipt: str, forward: Forward) -> None:
    """Makes a message visible at once, whoever received it; one that is no longer in flight stays as it is."""
    with suppress(Refused):
        forward("ChangeMessageVisibility", {"QueueUrl": queue, "ReceiptHandle": receipt, "VisibilityTimeout": 0})


def _events(
    number: int, faults: Mapping[int, Fault], said: Mapping[int, Shape], forwarded: Mapping[int, Shape]
) -> Shape:
    """The answer of PutEvents: one entry per entry of the request, in the same order."""
    refused = {i: {"ErrorCode": f.code, "ErrorMessage": f.code} for i, f in faults.items()}
    late = {i: {"EventId": one["EventId"]} for i, one in said.items()}
    by_index = {**refused, **late, **forwarded}
    entries = [by_index[i] for i in range(number)]
    return {"FailedEntryCount": sum("ErrorCode" in entry for entry in entries), "Entries": entries}
