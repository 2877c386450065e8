"""The publisher and its outbox against brokers that refuse: FAULTS rows 11 and 13; its lanes are in test_lanes.py."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from orderflow import failpoints
from orderflow.broker import BATCH, BatchRefused, SendFailure
from orderflow.errors import BrokerUnavailable
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.publisher import Publisher
from tests.support.load import sizes
from tests.support.publishing import Parts, Picky, Stored, age, envelope, left, run, stage
from tests.support.system import until
from tests.support.threads import in_background


@pytest.mark.row(13)
def test_only_the_refused_entry_is_retried(parts: Parts, stored: Stored, measured: Callable[..., None]) -> None:
    """Row 13: one of ten is refused by the broker; the relay sends that one, once its lease has run out."""
    outbox, broker, publisher = parts
    broker.answers = [[SendFailure(3, "InternalError", final=False)]]
    ids = stage(outbox, [envelope() for _ in range(BATCH)])
    run(publisher)
    outbox.flush()
    assert left(stored[1]) == [None]
    age(stored[1])
    assert publisher.relay() == 1
    run(publisher)
    outbox.flush()
    measured(sent_again=len(broker.sent[1]))
    assert broker.sent == [ids, [ids[3]]]
    assert left(stored[1]) == []


@pytest.mark.row(13)
def test_a_refused_batch_goes_one_by_one(parts: Parts, stored: Stored, measured: Callable[..., None]) -> None:
    """Row 13: a whole batch is refused for its size; each of its messages still goes, and none is stuck."""
    outbox, broker, publisher = parts
    broker.answers = [BatchRefused("BatchRequestTooLong")]
    ids = stage(outbox, [envelope() for _ in range(BATCH)])
    run(publisher)
    outbox.flush()
    measured(one_by_one=len(broker.sent) - 1)
    assert broker.sent == [ids, *([i] for i in ids)]
    assert left(stored[1]) == []


def test_a_message_that_is_refused_permanently_is_dead_lettered(parts: Parts, stored: Stored) -> None:
    """It stays for an operator, with the reason; the others go."""
    outbox, broker, publisher = parts
    broker.answers = [[SendFailure(0, "InvalidMessageContents", final=True)]]
    stage(outbox, [envelope(), envelope()])
    run(publisher)
    outbox.flush()
    assert left(stored[1]) == ["InvalidMessageContents"]
    age(stored[1])
    assert publisher.relay() == 0


def test_a_publisher_continues_whatever_it_meets(parts: Parts, stored: Stored) -> None:
    """It is its process's only way out: what was in flight is sent when its lease has run out."""
    outbox, broker, publisher = parts
    broker.answers = [RuntimeError("nobody thought of this")]
    ids = stage(outbox, [envelope()])
    ended = in_background(publisher.run)
    until(lambda: broker.sent, 10)
    age(stored[1])
    until(publisher.relay, 10)
    until(lambda: broker.sent == [ids, ids], 10)
    publisher.stop()
    ended.result(10)


def test_a_broker_that_was_unavailable_gets_all_of_it_later(parts: Parts, stored: Stored) -> None:
    """Nothing is published while the stack's marker is missing, and nothing is lost."""
    outbox, broker, publisher = parts
    broker.answers = [BrokerUnavailable("gone")]
    ids = stage(outbox, [envelope() for _ in range(3)])
    assert publisher.step() is False
    broker.whole = False
    assert publisher.step() is False
    broker.whole = True
    run(publisher)
    outbox.flush()
    assert broker.sent == [ids, ids[:1], ids[1:]]
    assert left(stored[1]) == []


def test_a_rolled_back_transaction_sends_nothing(parts: Parts, stored: Stored) -> None:
    outbox, _, publisher = parts

    def fail() -> None:
        with outbox.transaction() as unit:
            unit.stage([envelope()])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not publisher.waiting
    assert left(stored[1]) == []


@pytest.mark.row(11)
@pytest.mark.parametrize(("rounds", "each"), sizes((100, 3), (1000, 10)))
def test_the_relay_skips_no_row_that_commits_late(
    stored: Stored, rounds: int, each: int, measured: Callable[..., None]
) -> None:
    """Row 11: of two writers the one with the lower ids commits last, after the relay has sent the other's, again and
    again; every message is sent once. (Ids are minted when rows are stored, which is right before the commit.)"""
    own, url = stored
    broker = Picky()
    relay = Publisher(Outbox(own, lease=60), broker)
    outboxes = [Outbox(own, lease=-1) for _ in range(2)]
    committed: list[list[str]] = []
    for outbox in outboxes:
        outbox.on_staged = lambda entries: committed.append([entry.id for entry in entries])
    stored, other_committed = threading.Event(), threading.Event()
    staged, waited = list[str](), list[bool]()

    def hold() -> None:
        if threading.current_thread().name == "lower":
            stored.set()
            waited.append(other_committed.wait(10))

    failpoints.arm("commit.before", hold)
    for _ in range(rounds):
        stored.clear()
        other_committed.clear()
        lower, higher = ([envelope() for _ in range(each)] for _ in range(2))
        writer = threading.Thread(target=stage, args=(outboxes[0], lower), name="lower")
        writer.start()
        waited.append(stored.wait(10))
        staged += stage(outboxes[1], higher) + [e.id for e in lower]
        relay.relay()
        run(relay)
        relay._outbox.flush()
        assert broker.sent[-1][-1] == higher[-1].id, "the relay was past the lower ids"
        other_committed.set()
        writer.join()
        assert max(committed[-1]) < min(committed[-2]), "the lower ids committed last"
    assert waited == [True] * 2 * rounds
    while relay.relay() or relay.waiting:
        run(relay)
    relay._outbox.flush()
    measured(rows=len(staged), late=sum(map(len, committed[1::2])))
    assert sorted(i for batch in broker.sent for i in batch) == sorted(staged)
    assert left(url) == []
