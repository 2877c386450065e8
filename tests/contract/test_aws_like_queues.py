"""How AWS's queues bring what was sent, as documented: fewer, none, in another order, again, late."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError

from tests.support.aws_like.places import (
    ALWAYS,
    Place,
    drain,
    failures,
    queue,
    receive,
    send,
)
from tests.support.aws_like.rules import (
    Behaviour,
)
from tests.support.system import until


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
