"""AWS as it documents itself, in both places: in this process, and before an emulator (moto's server). Each behaviour
is seen through a boto3 client's eyes, and counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError

from tests.support.aws_like.layer import BATCHES
from tests.support.aws_like.places import (
    ALWAYS,
    SERVICES,
    InMemory,
    Place,
    ask,
    drain,
    failures,
    receive,
    send,
)
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


@pytest.mark.parametrize("service", ["sqs", "sns", "events"])
def test_an_answer_is_lost(place: Callable[..., Place], service: str) -> None:
    there = place({Behaviour.LOST_ANSWER: ALWAYS})
    with pytest.raises(ClientError) as raised:
        send(there, service, 2)
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] in (500, 503)
    with there.rules.calmed():
        assert sorted(drain(there)) == [0, 1], "it had been done"


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
