"""How AWS's answers to batches are read: which message failed, and whether a second try can help.

The answers are checked against botocore's models of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from botocore.stub import Stubber

from orderflow import clock
from orderflow import contracts as c
from orderflow.broker import BatchRefused, Parcel, SendFailure
from orderflow.broker.aws import refusals
from orderflow.broker.aws.clients import Clients
from orderflow.broker.aws.eventbridge import EventBridgeBus
from orderflow.broker.aws.sns import SnsTopic
from orderflow.broker.aws.sqs import SqsQueue
from orderflow.contracts import EventBus, Workflow
from orderflow.envelope import compose
from orderflow.errors import BrokerUnavailable
from orderflow.settings import Settings

URL = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def _clients() -> Clients:
    return Clients(Settings(aws_endpoint_url=URL))


@pytest.fixture
def clients(_clients: Clients) -> Clients:
    """Of a stack whose marker has been seen; nothing answers at its address. One for all tests, which leave no trace in
    boto3's clients: making those takes longer than all that is done with them."""
    _clients._urls = {"orderflow-ready": f"{URL}/000000000000/orderflow-ready"}
    _clients._verified_at, _clients._look_at = None, 0.0
    return _clients


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


# Of SQS and SNS: code, SenderFault as AWS gives it, and whom it blames.
MESSAGE, DESTINATION, UNSURE = refusals.Blame.MESSAGE, refusals.Blame.DESTINATION, refusals.Blame.UNSURE
ENTRIES = {
    "sqs": [
        ("InternalError", False, DESTINATION),
        ("InvalidMessageContents", True, MESSAGE),
        ("AWS.SimpleQueueService.InvalidMessageContents", True, MESSAGE),
        ("InvalidParameterValue", True, UNSURE),  # longer than the queue's own MaximumMessageSize
        ("KmsThrottled", True, DESTINATION),
        ("RequestThrottled", True, DESTINATION),
    ],
    "sns": [
        ("InternalError", False, DESTINATION),
        ("Throttled", True, DESTINATION),
        ("KMSThrottling", True, DESTINATION),
        ("AuthorizationError", True, DESTINATION),
        ("InvalidParameter", True, UNSURE),  # of the topic, maybe
        ("SomethingNew", True, UNSURE),
    ],
}


def failure(index: int, code: str, text: str, whose: refusals.Blame) -> SendFailure:
    return SendFailure(index, f"{code}: {text}", whose is MESSAGE, code, whose is DESTINATION)


@pytest.mark.parametrize("api", ENTRIES)
@pytest.mark.row(13, 27)
def test_sqs_and_sns_name_failures_by_id(clients: Clients, api: str) -> None:
    """In any order. Final is what can blame nothing but the message, whatever AWS says of the sender's fault."""
    told = ENTRIES[api]
    failed = [
        {"Id": str(i), "Code": code, "Message": "why", "SenderFault": fault} for i, (code, fault, _) in enumerate(told)
    ]
    client, operation, destination = {
        "sqs": (clients.sqs, "send_message_batch", SqsQueue(clients, "order", visibility=30)),
        "sns": (clients.sns, "publish_batch", SnsTopic(clients)),
    }[api]
    answer: dict[str, Any] = {"Successful": [], "Failed": failed[::-1]}
    assert sent(client, operation, answer, destination, len(told))[::-1] == [
        failure(i, code, "why", whose) for i, (code, _, whose) in enumerate(told)
    ]
    assert not sent(client, operation, {"Successful": []} | ({"Failed": []} if api == "sqs" else {}), destination, 5)


def test_eventbridge_names_failures_by_their_place(clients: Clients) -> None:
    """An entry with an event's id was taken. InvalidArgument may mean the bus."""
    entries = [
        {"EventId": "1"},
        {"ErrorCode": "ThrottlingException", "ErrorMessage": "slow down"},
        {"EventId": "2"},
        {"ErrorCode": "MalformedDetail", "ErrorMessage": "not JSON"},
        {"ErrorCode": "InvalidArgument", "ErrorMessage": "no such bus"},
    ]
    bus = EventBridgeBus(clients)
    answer = {"FailedEntryCount": 3, "Entries": entries}
    assert sent(clients.events, "put_events", answer, bus, 5) == [
        failure(1, "ThrottlingException", "slow down", DESTINATION),
        failure(3, "MalformedDetail", "not JSON", MESSAGE),
        failure(4, "InvalidArgument", "no such bus", UNSURE),
    ]
    assert not sent(clients.events, "put_events", {"FailedEntryCount": 0, "Entries": entries[:1]}, bus, 1)


WHOLE = [
    *((api, code, 400, BrokerUnavailable) for api in refusals.FINAL for code in ("ThrottlingException", "Throttling")),
    *((api, code, 403, BrokerUnavailable) for api in refusals.FINAL for code in ("AccessDenied", "ExpiredToken")),
    *((api, "AccessDeniedException", 400, BrokerUnavailable) for api in refusals.FINAL),
    *((api, "UnrecognizedClientException", 400, BrokerUnavailable) for api in refusals.FINAL),
    *((api, "InternalFailure", 500, BrokerUnavailable) for api in refusals.FINAL),
    *((api, "NobodyKnowsThis", 503, BrokerUnavailable) for api in refusals.FINAL),
    *((api, "NobodyKnowsThis", 400, BatchRefused) for api in refusals.FINAL),
    *((api, "ValidationException", 400, BatchRefused) for api in refusals.FINAL),
    ("sqs", "AWS.SimpleQueueService.NonExistentQueue", 400, BrokerUnavailable),
    ("sqs", "AWS.SimpleQueueService.BatchRequestTooLong", 400, BatchRefused),
    ("sqs", "KmsDisabled", 400, BrokerUnavailable),
    ("sqs", "RequestThrottled", 400, BrokerUnavailable),
    ("sqs", "InvalidParameterValue", 400, BatchRefused),
    ("sns", "NotFound", 404, BrokerUnavailable),
    ("sns", "KMSAccessDenied", 400, BrokerUnavailable),
    ("sns", "AuthorizationError", 403, BrokerUnavailable),
    ("sns", "InvalidParameter", 400, BatchRefused),
    ("events", "ResourceNotFoundException", 400, BrokerUnavailable),
    ("stepfunctions", "StateMachineDoesNotExist", 400, BrokerUnavailable),
    ("stepfunctions", "ExecutionLimitExceeded", 400, BrokerUnavailable),
    ("stepfunctions", "KmsThrottlingException", 400, BrokerUnavailable),
]


def fails(clients: Clients, api: str, error: Exception) -> None:
    with clients.sending(api):
        raise error


def answered(code: str, status: int) -> ClientError:
    told: Any = {"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(told, "Send")


@pytest.mark.parametrize(("api", "code", "status", "expected"), WHOLE)
@pytest.mark.row(27)
def test_what_an_error_of_a_whole_call_blames(
    clients: Clients, api: str, code: str, status: int, expected: type[Exception]
) -> None:
    """The destination, or else perhaps the message, which is then sent by itself; it is final in no case."""
    with pytest.raises(expected, match="why") as raised:
        fails(clients, api, answered(code, status))
    more = {"final": False} if expected is BatchRefused else {"done_nothing": status < 500}
    assert vars(raised.value) == {"code": code} | more


@pytest.mark.parametrize(
    ("api", "code"), [(api, code) for api in refusals.FINAL for code in sorted(refusals.FINAL[api])]
)
def test_what_is_the_messages_own_fault(clients: Clients, api: str, code: str) -> None:
    with pytest.raises(BatchRefused) as raised:
        fails(clients, api, answered(code, 400))
    assert raised.value.final


@pytest.mark.parametrize(
    ("error", "nothing"),
    [
        (answered("AWS.SimpleQueueService.NonExistentQueue", 400), True),
        (answered("ExpiredToken", 403), True),
        (EndpointConnectionError(endpoint_url=URL), True),
        (ConnectTimeoutError(endpoint_url=URL), True),
        (NoCredentialsError(), True),
        (answered("InternalFailure", 500), False),
        (ReadTimeoutError(endpoint_url=URL), False),
        (ConnectionClosedError(endpoint_url=URL), False),
    ],
)
@pytest.mark.row(25)
def test_whether_what_was_asked_may_have_been_done(clients: Clients, error: Exception, nothing: bool) -> None:
    """A receive without an answer may have taken messages; one that was refused, or reached nobody, has not."""
    with pytest.raises(BrokerUnavailable) as raised, clients.polling():
        raise error
    assert raised.value.done_nothing == nothing


@pytest.mark.parametrize(
    ("error", "doubtful"),
    [
        (answered("ThrottlingException", 400), False),
        (answered("AccessDenied", 403), False),
        (answered("InternalFailure", 500), False),
        (answered("AWS.SimpleQueueService.NonExistentQueue", 400), True),
        (answered("StateMachineDoesNotExist", 400), True),
        (ReadTimeoutError(endpoint_url=URL), False),
        (NoCredentialsError(), False),
        (ConnectTimeoutError(endpoint_url=URL), True),
        (EndpointConnectionError(endpoint_url=URL), True),
        (ConnectionClosedError(endpoint_url=URL), True),
    ],
)
@pytest.mark.row(27)
def test_only_a_sign_of_another_broker_makes_the_marker_doubtful(
    clients: Clients, error: Exception, doubtful: bool
) -> None:
    """One destination that throttles, denies or is late keeps no other one waiting for the marker."""
    clients._verified_at = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        fails(clients, "stepfunctions", error)
    assert (clients._verified_at is None) == doubtful


def test_many_who_wait_for_the_marker_look_for_it_once(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each destination's thread asks; a call twice a second is enough."""
    looked: list[str] = []

    def get_queue_url(QueueName: str) -> Any:
        looked.append(QueueName)
        raise answered("AWS.SimpleQueueService.NonExistentQueue", 400)

    monkeypatch.setattr(clients.sqs, "get_queue_url", get_queue_url)
    clients.lost()
    assert [clients.ready() for _ in range(9)] == [False] * 9
    assert len(looked) == 1


def test_who_polls_need_not_look_for_the_marker(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long poll that waits shows that the broker is who it was; its break, that it may not be."""
    looked: list[str] = []

    def get_queue_url(QueueName: str) -> Any:
        looked.append(QueueName)
        return {"QueueUrl": f"http://memory/000000000000/{QueueName}"}

    monkeypatch.setattr(clients.sqs, "get_queue_url", get_queue_url)
    clients.lost()
    assert clients.ready()
    long_ago = time.monotonic() - 60
    with clients.polling():
        clients._verified_at = long_ago
        assert clients.ready()
        assert len(looked) == 1
    clients._verified_at = long_ago
    assert clients.ready()
    assert len(looked) == 2
    with pytest.raises(BrokerUnavailable), clients.polling():
        raise ConnectionClosedError(endpoint_url=URL)
    assert clients.ready()
    assert len(looked) == 3
