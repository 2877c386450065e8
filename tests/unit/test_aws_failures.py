"""How AWS's answers to batches are read: which message failed, and whether a second try can help.

The answers are checked against botocore's models of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from botocore.stub import Stubber

from orderflow import clock
from orderflow import contracts as c
from orderflow.bus import Parcel, SendFailure
from orderflow.bus.aws import Clients
from orderflow.bus.eventbridge import EventBridgeBus
from orderflow.bus.sns import SnsTopic
from orderflow.bus.sqs import SqsQueue
from orderflow.contracts import EventBus, Workflow
from orderflow.envelope import compose
from orderflow.settings import Settings


@pytest.fixture
def clients() -> Clients:
    """Of a stack whose marker has been seen; nothing answers at its address."""
    made = Clients(Settings(aws_endpoint_url="http://127.0.0.1:9"))
    made._urls["orderflow-ready"] = "http://127.0.0.1:9/000000000000/orderflow-ready"
    return made


def parcels(count: int) -> list[Parcel]:
    made = [
        compose(
            c.StockReleased(), source="test", order_id=clock.new_id(), workflow=Workflow.HYBRID, event_bus=EventBus.SNS
        )
        for _ in range(count)
    ]
    return [Parcel(envelope, envelope.encode()) for envelope in made]


def sent(client: Any, operation: str, answer: dict[str, Any], destination: Any, count: int) -> Sequence[SendFailure]:
    """What a batch of so many messages gives with this answer."""
    with Stubber(client) as stub:
        stub.add_response(operation, answer)
        failures: Sequence[SendFailure] = destination.send(parcels(count))
        stub.assert_no_pending_responses()
        return failures


FAILED = [
    {"Id": "3", "Code": "InternalError", "Message": "try again", "SenderFault": False},
    {"Id": "0", "Code": "InvalidMessageContents", "SenderFault": True},
]
READ = [
    SendFailure(3, "InternalError: try again", final=False),
    SendFailure(0, "InvalidMessageContents: ", final=True),
]


def test_sqs_and_sns_name_failures_by_id(clients: Clients) -> None:
    """In any order; those of the sender's fault are final."""
    queue = SqsQueue(clients, "order", visibility=30)
    answer: dict[str, Any] = {"Successful": [], "Failed": FAILED}
    assert sent(clients.sqs, "send_message_batch", answer, queue, 5) == READ
    assert sent(clients.sns, "publish_batch", answer, SnsTopic(clients), 5) == READ
    assert not sent(clients.sns, "publish_batch", {"Successful": []}, SnsTopic(clients), 5)


def test_eventbridge_names_failures_by_their_place(clients: Clients) -> None:
    """An entry with an event's id was taken."""
    entries = [
        {"EventId": "1"},
        {"ErrorCode": "ThrottlingException", "ErrorMessage": "slow down"},
        {"EventId": "2"},
        {"ErrorCode": "MalformedDetail", "ErrorMessage": "not JSON"},
    ]
    bus = EventBridgeBus(clients)
    answer = {"FailedEntryCount": 2, "Entries": entries}
    assert sent(clients.events, "put_events", answer, bus, 4) == [
        SendFailure(1, "ThrottlingException: slow down", final=False),
        SendFailure(3, "MalformedDetail: not JSON", final=True),
    ]
    assert not sent(clients.events, "put_events", {"FailedEntryCount": 0, "Entries": entries[:1]}, bus, 1)
