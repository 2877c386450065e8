"""A message's age is by the broker's clock, which its answer tells; the process's own may be wrong by days."""

from __future__ import annotations

import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orderflow.broker.aws.clients import Clients
from orderflow.broker.aws.sqs import SqsQueue

SENT = 1_760_000_000.25
"""Seconds since 1970: a day long past, as this process's clock has it."""


def received(headers: dict[str, str], **attributes: str) -> tuple[float, dict[str, Any]]:
    """The age of one message in an answer with these headers, and what was asked."""
    asked: dict[str, Any] = {}

    def receive_message(**parameters: Any) -> dict[str, Any]:
        asked.update(parameters)
        message = {"Body": "{}", "ReceiptHandle": "r", "MessageId": "m", "Attributes": attributes}
        return {"Messages": [message], "ResponseMetadata": {"HTTPHeaders": headers}}

    clients = SimpleNamespace(
        stack="orderflow",
        polling=nullcontext,
        queue_url=lambda name: name,
        polling_sqs=SimpleNamespace(receive_message=receive_message),
    )
    [delivery] = SqsQueue(cast(Clients, clients), "order", visibility=30).receive(10, 20)
    return delivery.age, asked


@pytest.mark.row(25)
def test_the_age_goes_by_the_date_of_the_answer() -> None:
    """Its date has no fractions of a second: an age may be one too many, and is none too few."""
    age, asked = received({"date": "Thu, 09 Oct 2025 08:53:30 GMT"}, SentTimestamp=str(int(SENT * 1000)))
    assert 9.75 <= age <= 10.75
    assert "SentTimestamp" in asked["AttributeNames"]


@pytest.mark.row(25)
def test_without_a_date_it_goes_by_this_process() -> None:
    sent = str(int((time.time() - 100) * 1000))
    for headers in ({}, {"date": "yesterday"}):
        age, _ = received(headers, SentTimestamp=sent)
        assert age == pytest.approx(105, abs=5.1)
    assert received({})[0] == 0, "a broker that does not tell when it was sent"
