"""AWS as it documents itself in two places, and what the contract's tests ask of it there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from botocore.config import Config

from orderflow.settings import Settings
from tests.support.aws import client
from tests.support.aws_like.memory import AwsLikeBroker
from tests.support.aws_like.rules import (
    Rules,
)
from tests.support.buses import NAME

ALWAYS = 1.0


SERVICES = ("sqs", "sns", "events", "stepfunctions")


MESSAGE = {"type": "orderflow.OrderPlaced.v1", "workflow": "choreography"}
"""An event that inventory hears."""

HEARS = "inventory"
"""The service in whose queue the tests look."""


class Place(Protocol):
    """Where AWS is."""

    rules: Rules

    def client(self, service: str) -> Any: ...

    def pass_time(self, seconds: float) -> None: ...


class InMemory:
    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._account = AwsLikeBroker(Settings(aws_endpoint_url="http://memory", orderflow_stack=NAME), rules).account
        self.client = self._account.client
        self.pass_time = self._account.pass_time


class Proxied:
    def __init__(self, rules: Rules, url: str) -> None:
        self.rules = rules
        self._url = url

    def client(self, service: str) -> Any:
        return client(service, self._url, config=Config(retries={"total_max_attempts": 1}))

    def pass_time(self, seconds: float) -> None:
        """It passes by itself."""


def queue(place: Place, service: str = HEARS) -> str:
    with place.rules.calmed():
        return str(place.client("sqs").get_queue_url(QueueName=f"{NAME}-{service}")["QueueUrl"])


def ask(place: Place, service: str) -> Any:
    """One call of a service's API."""
    made = place.client(service)
    match service:
        case "sqs":
            return made.get_queue_url(QueueName=f"{NAME}-{HEARS}")
        case "stepfunctions":
            return made.describe_execution(executionArn=f"arn:aws:states:us-east-1:123456789012:execution:{NAME}:x")
    return send(place, service, 1)


def send(place: Place, service: str, number: int) -> Any:
    """A batch to inventory's queue, straight or by an event."""
    made, bodies = place.client(service), [json.dumps({**MESSAGE, "n": n}) for n in range(number)]
    match service:
        case "sqs":
            entries = [{"Id": str(i), "MessageBody": body} for i, body in enumerate(bodies)]
            return made.send_message_batch(QueueUrl=queue(place), Entries=entries)
        case "sns":
            attributes = {name: {"DataType": "String", "StringValue": value} for name, value in MESSAGE.items()}
            batch = [{"Id": str(i), "Message": body, "MessageAttributes": attributes} for i, body in enumerate(bodies)]
            arn = f"arn:aws:sns:us-east-1:123456789012:{NAME}-events"  # moto's
            return made.publish_batch(TopicArn=arn, PublishBatchRequestEntries=batch)
    events = [{"EventBusName": NAME, "Source": "orderflow", "DetailType": MESSAGE["type"], "Detail": b} for b in bodies]
    return made.put_events(Entries=events)


def failures(service: str, answer: Mapping[str, Any]) -> list[tuple[str, bool | None]]:
    """Code and flag of each entry that failed."""
    if service == "events":
        assert answer["FailedEntryCount"] == sum("ErrorCode" in entry for entry in answer["Entries"])
        return [(entry["ErrorCode"], None) for entry in answer["Entries"] if "ErrorCode" in entry]
    return [(entry["Code"], entry["SenderFault"]) for entry in answer.get("Failed", ())]


def receive(place: Place, wait: int = 1, number: int = 10) -> list[dict[str, Any]]:
    answer = place.client("sqs").receive_message(
        QueueUrl=queue(place), MaxNumberOfMessages=number, WaitTimeSeconds=wait, AttributeNames=["All"]
    )
    return list(answer.get("Messages", ()))


def drain(place: Place) -> list[int]:
    """The numbers of all messages that can be had, each time that they come."""
    found: list[int] = []
    while messages := receive(place):
        entries = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(messages)]
        place.client("sqs").delete_message_batch(QueueUrl=queue(place), Entries=entries)
        found += [numbered(message) for message in messages]
    return found


def numbered(message: Mapping[str, Any]) -> int:
    body = json.loads(message["Body"])
    return int(body.get("detail", body)["n"])  # moto knows no InputPath
