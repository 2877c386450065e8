"""What a destination refuses holds up nothing else that goes there (FAULTS row 27)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from orderflow.broker import BATCH, BatchRefused, Parcel, SendFailure
from orderflow.errors import BrokerUnavailable
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.publisher import Publisher
from orderflow.routing import Channel
from tests.support.lanes import (
    Faulty,
    all_due,
    entries,
    refused,
    rows,
    stage_for,
)
from tests.support.publishing import run


@pytest.mark.parametrize("fault", ["refused", "entry"])
@pytest.mark.row(27)
def test_one_message_that_is_never_taken_keeps_no_other_and_is_not_tried_hot(
    outbox: Outbox, broker: Faulty, publisher: Publisher, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a retry time of its own, the later the more often; its neighbours go, and the lane stays open."""
    monkeypatch.setattr("orderflow.messaging.circuit.random.uniform", lambda shortest, longest: longest)
    key = Channel.QUEUE, "inventory"
    ids = stage_for(outbox, key, BATCH)
    odd = ids[4]
    broker.faults[key] = {
        "refused": refused("NobodyKnowsThis", only=odd), "entry": entries("Odd", destination=False, only=odd)
    }[fault]  # fmt: skip
    waits = []
    for attempts in range(1, 10):
        run(publisher)
        outbox.flush()
        [found] = rows(outbox, "attempts, extract(epoch FROM leased_until - now())::float")
        assert found[0] == attempts
        waits.append(found[1])
        tried = sum(odd in batch for batch in broker.calls[key])
        run(publisher)
        assert sum(odd in batch for batch in broker.calls[key]) == tried, "not before its time"
        all_due(outbox)
        publisher.relay()
    assert waits == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 60, 60], abs=0.4)
    assert sorted(broker.taken[key]) == sorted(i for i in ids if i != odd)
    assert publisher._lane(*key).circuit.closed
    more = stage_for(outbox, key, 3)
    run(publisher)
    assert set(more) <= set(broker.taken[key])


@pytest.mark.row(27)
def test_a_probe_that_was_answered_is_not_the_same_message_again(
    outbox: Outbox, broker: Faulty, publisher: Publisher
) -> None:
    """A message at which the broker fails with an error of its own is found out, and the lane continues without it."""
    key = Channel.QUEUE, "inventory"
    odd, *others = ids = stage_for(outbox, key, 3)

    def fail(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        if odd in [parcel.envelope.id for parcel in batch]:
            raise BrokerUnavailable("InternalFailure", "InternalFailure")
        return ()

    broker.faults[key] = fail
    for _ in range(4):
        publisher.step()
    assert broker.calls[key] == [ids, [odd], others[:1], others[1:]]
    assert broker.taken[key] == others


@pytest.mark.parametrize("code", ["InvalidMessageContents", "InvalidExecutionInput"])
def test_only_a_message_to_blame_is_a_dead_letter(
    outbox: Outbox, broker: Faulty, publisher: Publisher, code: str
) -> None:
    """Whole calls are refused for it; alone it is refused for good, and its neighbours go."""
    key = Channel.BUS, "sns"
    ids = stage_for(outbox, key, 5)
    broker.faults[key] = refused(code, final=True, only=ids[2])
    run(publisher)
    outbox.flush()
    [(reason,)] = rows(outbox, "parked")
    assert code in reason
    assert broker.taken[key] == [i for i in ids if i != ids[2]]
    assert publisher._lane(*key).circuit.closed


def test_what_stops_in_the_middle_of_one_by_one_is_not_sent_twice(
    outbox: Outbox, broker: Faulty, publisher: Publisher
) -> None:
    """The third of four finds the destination unavailable: two are sent, two wait."""
    key = Channel.QUEUE, "inventory"
    ids = stage_for(outbox, key, 4)

    def fail(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        if len(batch) > 1:
            raise BatchRefused("InvalidParameterValue", "InvalidParameterValue")
        if batch[0].envelope.id == ids[2]:
            raise BrokerUnavailable("gone")
        return ()

    broker.faults[key] = fail
    publisher.step()
    outbox.flush()
    assert broker.calls[key] == [ids, *([i] for i in ids[:3])]
    assert [attempts for (attempts,) in rows(outbox, "attempts")] == [1, 1]
    broker.faults.clear()
    all_due(outbox)
    publisher.relay()
    run(publisher)
    assert broker.taken[key] == ids
