"""The brokers that the contract suite runs on: memory, LocalStack, and moto's server as a second opinion on AWS."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from orderflow.broker import Delivery
from orderflow.broker.aws.broker import AwsBroker
from orderflow.broker.memory import MemoryBroker
from orderflow.envelope import Envelope, decode
from orderflow.routing import SERVICES, event_pattern, filter_policy, heard_by
from orderflow.settings import Settings
from tests.support.aws import client

ROOT = Path(__file__).parents[2]
NAME = "contract"


class Memory:
    """The memory bus, with the interface that the suite needs."""

    limits = False
    """Whether it refuses batches that are too large."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()

    def decode(self, delivery: Delivery) -> Envelope:
        """The envelope that was delivered."""
        return decode(delivery.body)

    def parked(self, service: str) -> list[tuple[str, str]]:
        """(body, reason) of the messages in the dead-letter queue, which is emptied."""
        queue = self.broker.queues[service]
        found = [(delivery.body, reason) for delivery, reason in queue.parked]
        queue.parked.clear()
        return found

    def break_stack(self) -> None:
        self.broker.whole = False

    def mend_stack(self) -> None:
        self.broker.whole = True


class Emulated:
    """A stack of its own in an emulator at `endpoint`. `input_path`: whether its EventBridge supports InputPath."""

    def __init__(
        self, endpoint: str, deploy: Callable[[str, str], object], *, limits: bool = True, input_path: bool = True
    ) -> None:
        self.limits = limits
        self._input_path = input_path
        deploy(endpoint, NAME)
        settings = Settings(aws_endpoint_url=endpoint, orderflow_stack=NAME)
        self.broker = AwsBroker(settings)
        self._sqs: Any = client("sqs", endpoint)

    def decode(self, delivery: Delivery) -> Envelope:
        """The envelope that was delivered; it is taken out of the whole event if InputPath is not supported."""
        whole = json.loads(delivery.body)
        wrapped = not self._input_path and "detail-type" in whole
        return decode(json.dumps(whole["detail"], separators=(",", ":")) if wrapped else delivery.body)

    def parked(self, service: str) -> list[tuple[str, str]]:
        url = self._sqs.get_queue_url(QueueName=f"{NAME}-{service}-dlq")["QueueUrl"]
        found = []
        while answer := self._sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=1
        ).get("Messages"):
            for message in answer:
                found.append((message["Body"], message["MessageAttributes"]["reason"]["StringValue"]))
                self._sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return found

    @contextmanager
    def shortest_queue(self, service: str, limit: int) -> Iterator[None]:
        """Limits a service's queue to messages of this many bytes."""
        url = self._sqs.get_queue_url(QueueName=f"{NAME}-{service}")["QueueUrl"]
        before = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["MaximumMessageSize"])["Attributes"]
        self._sqs.set_queue_attributes(QueueUrl=url, Attributes={"MaximumMessageSize": str(limit)})
        try:
            yield
        finally:
            self._sqs.set_queue_attributes(QueueUrl=url, Attributes=before)

    def break_stack(self) -> None:
        """Removes the marker, and makes the broker look again."""
        self._sqs.delete_queue(QueueUrl=self._sqs.get_queue_url(QueueName=f"{NAME}-ready")["QueueUrl"])
        self.broker._clients.lost()

    def mend_stack(self) -> None:
        self._sqs.create_queue(QueueName=f"{NAME}-ready")


def by_template(endpoint: str, name: str) -> None:
    """Deploys localstack/stack.yaml, as the product does."""
    spec = importlib.util.spec_from_file_location("deploy", ROOT / "localstack/init/ready.d/deploy.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.deploy(endpoint, name)


def by_calls(endpoint: str, name: str, services: Sequence[str] = SERVICES) -> None:
    """Creates the parts of the stack that these services' brokers need, call by call: moto's CloudFormation has no
    QueuePolicy and no Subscription, and fails on a rule of a custom bus."""
    sqs, sns, events = (client(service, endpoint) for service in ("sqs", "sns", "events"))
    topic = sns.create_topic(Name=f"{name}-events")["TopicArn"]
    events.create_event_bus(Name=name)
    for service in services:
        for way in ("", "-subscription", "-rule"):
            sqs.create_queue(QueueName=f"{name}-{service}{way}-dlq")
        url = sqs.create_queue(QueueName=f"{name}-{service}", Attributes={"VisibilityTimeout": "30"})["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        if not heard_by(service):
            continue
        attributes = {"RawMessageDelivery": "true", "FilterPolicy": json.dumps(filter_policy(service))}
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=attributes)
        events.put_rule(Name=f"{name}-{service}", EventBusName=name, EventPattern=json.dumps(event_pattern(service)))
        target = {"Id": service, "Arn": arn, "InputPath": "$.detail"}
        events.put_targets(Rule=f"{name}-{service}", EventBusName=name, Targets=[target])
    sqs.create_queue(QueueName=f"{name}-ready")


@contextmanager
def moto() -> Iterator[Emulated]:
    """moto's server, in a thread."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        # Reset what an earlier server left: moto keeps its state per process.
        httpx.post(f"http://{host}:{port}/moto-api/reset", trust_env=False)
        yield Emulated(f"http://{host}:{port}", by_calls, limits=False, input_path=False)
    finally:
        server.stop()


def receive_all(bus: Memory | Emulated, service: str, expected: int, wait: int = 2) -> list[Delivery]:
    """Takes and deletes a service's messages: waits for `expected` of them, then checks that there are no more."""
    queue = bus.broker.queue(service)
    found: list[Delivery] = []
    while True:
        batch = queue.receive(10, wait if len(found) < expected else 0)
        if not batch:
            return found
        queue.delete(batch)
        found += batch
