"""AWS as it documents itself, in both places: in this process, and before an emulator (moto's server). Each behaviour
is seen through a boto3 client's eyes, and counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Protocol

import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from orderflow.settings import Settings
from tests.support.aws import client
from tests.support.aws_like import proxy
from tests.support.aws_like.layer import BATCHES
from tests.support.aws_like.memory import AwsLikeBroker
from tests.support.aws_like.rules import (
    BUCKETS,
    EXPIRED,
    FAILED_ENTRY,
    PAGES,
    THROTTLED,
    THROTTLED_ENTRY,
    UNAVAILABLE,
    USUAL,
    Behaviour,
    Rules,
)
from tests.support.buses import NAME, by_calls, moto
from tests.support.system import until

ALWAYS = 1.0
SERVICES = ("sqs", "sns", "events", "stepfunctions")
MESSAGE = {"type": "orderflow.OrderPlaced.v1", "workflow": "choreography"}
"""An event that inventory hears."""


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


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    """moto's server, at this URL."""
    pytest.importorskip("moto.server", reason="moto's server is not installed: make install")
    with moto() as made:
        yield str(made._sqs.meta.endpoint_url)


@pytest.fixture(params=["memory", "proxy"])
def place(request: pytest.FixtureRequest) -> Iterator[Callable[..., Place]]:
    """Makes a place with these chances, and with nothing in its queues."""
    with ExitStack() as stack:

        def make(chances: Mapping[Behaviour, float], scale: float = 0) -> Place:
            rules = Rules(1, chances, scale=scale)
            if request.param == "memory":
                return InMemory(rules)
            emulator: str = request.getfixturevalue("emulator")
            httpx.post(f"{emulator}/moto-api/reset", trust_env=False)
            by_calls(emulator, NAME)
            return Proxied(rules, stack.enter_context(proxy.before(emulator, rules)))

        yield make


def queue(place: Place, service: str = "inventory") -> str:
    with place.rules.calmed():
        return str(place.client("sqs").get_queue_url(QueueName=f"{NAME}-{service}")["QueueUrl"])


def ask(place: Place, service: str) -> Any:
    """One call of a service's API."""
    made = place.client(service)
    match service:
        case "sqs":
            return made.get_queue_url(QueueName=f"{NAME}-inventory")
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


def test_each_behaviour_has_its_page() -> None:
    assert set(PAGES) == set(Behaviour)
    assert all(page.startswith("https://docs.aws.amazon.com/") for page in PAGES.values())
    assert set(USUAL) == set(Behaviour) - {
        Behaviour.OVER_LIMIT,
        Behaviour.BUCKET,
        Behaviour.EXPIRED,
        Behaviour.LATE_FILTER,
    }, "what a test causes is left to no chance"


def test_a_seed_says_what_happens() -> None:
    def drawn(seed: int) -> list[bool]:
        rules = Rules(seed)
        return [rules.happens(what) for what in USUAL for _ in range(20)]

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("what", [Behaviour.THROTTLE, Behaviour.UNAVAILABLE, Behaviour.EXPIRED])
def test_a_call_is_refused(place: Callable[..., Place], what: Behaviour, service: str) -> None:
    """With AWS's code and status; nothing has been done."""
    there = place({} if what is Behaviour.EXPIRED else {what: ALWAYS})
    faults = {
        Behaviour.THROTTLE: THROTTLED[service],
        Behaviour.UNAVAILABLE: UNAVAILABLE,
        Behaviour.EXPIRED: EXPIRED[service],
    }[what]
    if what is Behaviour.EXPIRED:
        there.rules.expire()
    with pytest.raises(ClientError) as raised:
        ask(there, service)
    response = raised.value.response
    said = (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"])
    assert said in {(fault.code, fault.status) for fault in faults}
    assert there.rules.fired[what] >= 1
    there.rules.renew()
    with there.rules.calmed():
        assert receive(there, wait=0) == []
        if service != "stepfunctions":
            ask(there, service)


@pytest.mark.parametrize("service", ["sqs", "sns", "events"])
@pytest.mark.parametrize("what", [Behaviour.THROTTLE_ENTRY, Behaviour.FAIL_ENTRY])
def test_entries_of_a_batch_fail(place: Callable[..., Place], what: Behaviour, service: str) -> None:
    """Some of ten; the others arrive, and only they."""
    there = place({what: 0.5})
    fault = (THROTTLED_ENTRY if what is Behaviour.THROTTLE_ENTRY else FAILED_ENTRY)[service]
    failed = failures(service, send(there, service, 10))
    assert 0 < len(failed) < 10
    assert set(failed) == {(fault.code, None if service == "events" else fault.sender)}
    assert there.rules.fired[what] == len(failed)
    with there.rules.calmed():
        assert len(drain(there)) == 10 - len(failed)


def test_a_receive_brings_fewer(place: Callable[..., Place]) -> None:
    there = place({Behaviour.FEWER: ALWAYS})
    send(there, "sqs", 10)
    sizes = []
    while messages := receive(there):
        sizes.append(len(messages))
    assert sum(sizes) == 10
    assert len(sizes) > 1


def test_only_a_short_poll_misses(place: Callable[..., Place]) -> None:
    there = place({Behaviour.FALSE_EMPTY: ALWAYS})
    send(there, "sqs", 1)
    assert receive(there, wait=0) == []
    assert len(receive(there, wait=1)) == 1


def test_messages_overtake_each_other(place: Callable[..., Place]) -> None:
    there = place({Behaviour.REORDER: ALWAYS, Behaviour.FEWER: ALWAYS})
    send(there, "sqs", 10)
    found = drain(there)
    assert sorted(found) == list(range(10))
    assert found != sorted(found)


@pytest.mark.parametrize("what", [Behaviour.DUPLICATE, Behaviour.STAYS])
def test_a_message_comes_again(place: Callable[..., Place], what: Behaviour) -> None:
    there = place({what: 0.5})
    send(there, "sqs", 10)
    found = drain(there)
    assert set(found) == set(range(10))
    # An emulator takes any receipt for a deletion: then the second delivery is of what two had at once.
    assert len(found) > 10 or what is Behaviour.DUPLICATE
    assert there.rules.fired[what] > 0


@pytest.mark.parametrize("service", ["sns", "events"])
def test_an_event_is_late(place: Callable[..., Place], service: str) -> None:
    there = place({Behaviour.DELAY: ALWAYS})
    assert failures(service, send(there, service, 3)) == []
    assert receive(there, wait=0) == []
    there.pass_time(60)
    found: list[int] = []

    def arrived() -> bool:
        found.extend(drain(there))
        return len(found) == 3

    until(arrived, 20)
    assert sorted(found) == [0, 1, 2]


@pytest.mark.parametrize("service", ["sqs", "sns", "events"])
def test_an_answer_is_lost(place: Callable[..., Place], service: str) -> None:
    there = place({Behaviour.LOST_ANSWER: ALWAYS})
    with pytest.raises(ClientError) as raised:
        send(there, service, 2)
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] in (500, 503)
    with there.rules.calmed():
        assert sorted(drain(there)) == [0, 1], "it had been done"


def test_too_many_in_flight(place: Callable[..., Place]) -> None:
    """A short poll gets OverLimit, a long one no error and no message, though some are there."""
    there = place({}, scale=2 / 120_000)
    send(there, "sqs", 5)
    held = receive(there, number=2)
    assert len(held) == 2
    with pytest.raises(ClientError, match="OverLimit"):
        receive(there, wait=0)
    assert receive(there, wait=1) == []
    entries = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(held)]
    place_sqs = there.client("sqs")
    place_sqs.delete_message_batch(QueueUrl=queue(there), Entries=entries)
    assert len(receive(there)) == 3


@pytest.mark.parametrize("operation", ["DescribeExecution"])
def test_a_token_bucket_runs_empty(place: Callable[..., Place], operation: str) -> None:
    scale = 5 / BUCKETS[operation][0]
    there = place({}, scale=scale)
    codes = []
    for _ in range(20):
        with pytest.raises(ClientError) as raised:
            ask(there, "stepfunctions")
        codes.append(raised.value.response["Error"]["Code"])
    assert codes[:5] == ["ExecutionDoesNotExist"] * 5
    assert "ThrottlingException" in codes[5:]
    assert there.rules.fired[Behaviour.BUCKET] == codes.count("ThrottlingException")


def test_a_spent_token_has_timed_out() -> None:
    """Where AWS says so instead of calling it invalid; emulators know no other code."""
    there = InMemory(Rules(1, {Behaviour.SPENT_TOKEN: ALWAYS}))
    with pytest.raises(ClientError, match="TaskTimedOut"):
        there.client("stepfunctions").send_task_success(taskToken="forged", output="{}")


def test_every_answer_has_a_date(place: Callable[..., Place]) -> None:
    answer = ask(place({}), "sqs")
    assert answer["ResponseMetadata"]["HTTPHeaders"]["date"].endswith("GMT")


def test_all_batches_of_the_product_are_known() -> None:
    assert set(BATCHES) >= {"SendMessageBatch", "DeleteMessageBatch", "PublishBatch", "PutEvents"}
