"""Each destination is a lane of its own: what one does is no other's business, also at the end (FAULTS row 27)."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from orderflow.broker import BATCH, Parcel, SendFailure
from orderflow.database import Database
from orderflow.messaging import lane
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.publisher import Publisher
from orderflow.routing import Channel
from tests.support.lanes import (
    FAULTS,
    LANES,
    Faulty,
    Key,
    all_due,
    rows,
    stage_for,
    unavailable,
)
from tests.support.publishing import envelope, run, stage
from tests.support.system import until
from tests.support.threads import in_background


@pytest.mark.parametrize("fault", [*FAULTS, "hangs"])
@pytest.mark.parametrize("failing", LANES, ids=lambda key: key[1])
@pytest.mark.row(27)
def test_one_destination_that_fails_is_no_others_business(
    outbox: Outbox, broker: Faulty, running: Publisher, failing: Key, fault: str
) -> None:
    """Each in turn, in every way: all others get everything that is staged for them while it takes nothing, also what
    is staged in the same transactions. Then it gets everything, too. Nothing is dead-lettered."""
    mended = threading.Event()

    def hang(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        assert mended.wait(60)
        return ()

    broker.faults[failing] = FAULTS.get(fault, hang)
    wanted = {key: [i for _ in range(3) for i in stage_for(outbox, key, 7)] for key in LANES}
    others = [key for key in LANES if key != failing]
    try:
        until(lambda: all(sorted(broker.taken[key]) == sorted(wanted[key]) for key in others), 30)
        until(lambda: broker.calls[failing], 30)  # its thread may begin later than those of the others
        assert not broker.taken[failing]
    finally:
        del broker.faults[failing]
        mended.set()
    all_due(outbox)
    running.relay()
    until(lambda: set(broker.taken[failing]) == set(wanted[failing]), 30)
    assert rows(outbox, "parked") == [(None,)] * len(rows(outbox, "1"))


@pytest.mark.row(27)
def test_an_unavailable_destination_is_logged_and_counted_once_a_change(
    outbox: Outbox, broker: Faulty, publisher: Publisher
) -> None:
    """By operation, destination and code; not per message."""
    key = Channel.BUS, "sns"
    before = lane.failures["bus", "sns", "AccessDenied"]
    with capture_logs() as logs:
        broker.faults[key] = unavailable("AccessDenied")
        stage_for(outbox, key, 12)
        for _ in range(5):
            publisher.step()
        broker.faults[key] = unavailable("ThrottlingException")
        publisher.step()
        broker.faults.clear()
        run(publisher)
    warned = [line for line in logs if line["log_level"] == "warning"]
    assert [(line["event"], line["channel"], line["target"], line["code"]) for line in warned] == [
        ("destination unavailable; its messages wait", "bus", "sns", "AccessDenied"),
        ("destination unavailable; its messages wait", "bus", "sns", "ThrottlingException"),
    ]
    assert publisher._lane(*key).circuit.closed
    assert "Send operation" in logs[0]["reason"]
    assert lane.failures["bus", "sns", "AccessDenied"] - before == BATCH + 4


def test_a_lane_that_ends_gives_back_what_it_could_not_send(
    outbox: Outbox, broker: Faulty, publisher: Publisher, database: Database
) -> None:
    """A stop sends what waits for those who take it, whatever another does; the next process needs no lease to end."""
    failing, fine = (Channel.BUS, "sns"), (Channel.QUEUE, "inventory")
    broker.faults[failing] = unavailable()
    left = stage_for(outbox, failing, 25)
    sent = stage_for(outbox, fine, 25)
    ended = in_background(publisher.run)
    until(lambda: broker.calls[failing], 10)
    publisher.stop()
    ended.result(20)
    assert sorted(broker.taken[fine]) == sorted(sent)
    outbox.flush()
    broker.faults.clear()
    other = Publisher(Outbox(database, lease=60), broker)
    assert other.relay() == 1
    run(other)
    assert sorted(broker.taken[failing]) == sorted(left)


def test_a_lane_that_hangs_keeps_no_other_from_ending(outbox: Outbox, broker: Faulty, publisher: Publisher) -> None:
    failing, fine = (Channel.BUS, "sns"), (Channel.QUEUE, "inventory")
    mended = threading.Event()

    def hang(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        assert mended.wait(60)
        return ()

    broker.faults[failing] = hang
    ended = in_background(publisher.run)
    stage_for(outbox, failing)
    until(lambda: broker.calls[failing], 10)
    sent = stage_for(outbox, fine, 25)
    publisher.stop()
    until(lambda: sorted(broker.taken[fine]) == sorted(sent), 10)
    mended.set()
    ended.result(20)


def test_after_a_stop_what_is_staged_is_the_next_processs(outbox: Outbox, publisher: Publisher) -> None:
    publisher.stop()
    stage(outbox, [envelope()])
    assert publisher.waiting == 0
    assert rows(outbox, "leased_until <= now()") == [(True,)]


def test_a_broker_that_is_not_ready_gets_nothing_and_is_retried(
    outbox: Outbox, broker: Faulty, running: Publisher
) -> None:
    """Nothing is published into a gap; when the stack is whole, everything goes by itself."""
    broker.whole = False
    key = Channel.BUS, "sns"
    wanted = stage_for(outbox, key, 3)
    until(lambda: not running._lane(*key).circuit.closed, 10)
    wanted += stage_for(outbox, key, 3)
    assert not broker.calls[key]
    broker.whole = True
    until(lambda: sorted(broker.taken[key]) == sorted(wanted), 10)
