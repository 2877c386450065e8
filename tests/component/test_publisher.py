"""The publisher and its outbox against brokers that refuse: FAULTS rows 11 and 13; its lanes are in test_lanes.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from orderflow import clock, failpoints
from orderflow import contracts as c
from orderflow.broker import BATCH, BATCH_BYTES, BatchRefused, Parcel, SendFailure
from orderflow.broker.memory import MemoryBroker
from orderflow.contracts import EventBus, Workflow
from orderflow.database import Database
from orderflow.envelope import Envelope, compose
from orderflow.errors import BrokerUnavailable
from orderflow.messaging.backlog import Entry
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.publisher import Publisher
from orderflow.routing import Channel
from tests.support.load import sizes
from tests.support.provider_process import in_background
from tests.support.system import until


class Picky(MemoryBroker):
    """Answers each send as `answers` says, then takes everything. `sent` holds what it was asked to take."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Sequence[SendFailure] | Exception] = []
        self.sent: list[list[str]] = []

    def send(self, channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        self.sent.append([parcel.envelope.id for parcel in batch])
        answer = self.answers.pop(0) if self.answers else ()
        if isinstance(answer, Exception):
            raise answer
        super().send(channel, target, [p for i, p in enumerate(batch) if i not in {f.index for f in answer}])
        return answer


@pytest.fixture
def database(new_database: Callable[[str | None], str]) -> Iterator[tuple[Database, str]]:
    url = new_database("inventory")
    made = Database(url, size=4)
    made.open()
    yield made, url
    made.close()


@pytest.fixture
def parts(database: tuple[Database, str]) -> tuple[Outbox, Picky, Publisher]:
    outbox = Outbox(database[0], lease=60)
    broker = Picky()
    return outbox, broker, Publisher(outbox, broker)


Parts = tuple[Outbox, Picky, Publisher]
Stored = tuple[Database, str]


def envelope(size: int = 0) -> Envelope:
    made = compose(
        c.ReleaseStock(),
        source="test",
        order_id=clock.new_id(),
        workflow=Workflow.ORCHESTRATION,
        event_bus=EventBus.SNS,
    )
    return made.model_copy(update={"data": {"x": "a" * size}}) if size else made


def stage(outbox: Outbox, envelopes: Sequence[Envelope]) -> list[str]:
    with outbox.transaction() as unit:
        unit.stage(envelopes)
    return [e.id for e in envelopes]


def left(url: str) -> list[str | None]:
    """What the outbox holds: the reason of what is parked, None for what waits."""
    with psycopg.connect(url) as connection:
        return [parked for (parked,) in connection.execute("SELECT parked FROM outbox")]


def run(publisher: Publisher) -> None:
    while publisher.step():
        pass


def age(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE outbox SET leased_until = now() - interval '1 s'")


@pytest.mark.row(13)
def test_only_the_refused_entry_is_sent_again(parts: Parts, database: Stored, measured: Callable[..., None]) -> None:
    """Row 13: one of ten is refused by the broker; the relay sends that one, once its lease has run out."""
    outbox, broker, publisher = parts
    broker.answers = [[SendFailure(3, "InternalError", final=False)]]
    ids = stage(outbox, [envelope() for _ in range(BATCH)])
    run(publisher)
    outbox.flush()
    assert left(database[1]) == [None]
    age(database[1])
    assert publisher.relay() == 1
    run(publisher)
    outbox.flush()
    measured(sent_again=len(broker.sent[1]))
    assert broker.sent == [ids, [ids[3]]]
    assert left(database[1]) == []


@pytest.mark.row(13)
def test_a_refused_batch_goes_one_by_one(parts: Parts, database: Stored, measured: Callable[..., None]) -> None:
    """Row 13: a whole batch is refused for its size; each of its messages still goes, and none is stuck."""
    outbox, broker, publisher = parts
    broker.answers = [BatchRefused("BatchRequestTooLong")]
    ids = stage(outbox, [envelope() for _ in range(BATCH)])
    run(publisher)
    outbox.flush()
    measured(one_by_one=len(broker.sent) - 1)
    assert broker.sent == [ids, *([i] for i in ids)]
    assert left(database[1]) == []


def test_a_message_that_is_refused_for_good_is_parked(parts: Parts, database: Stored) -> None:
    """It stays for an operator, with the reason; the others go."""
    outbox, broker, publisher = parts
    broker.answers = [[SendFailure(0, "InvalidMessageContents", final=True)]]
    stage(outbox, [envelope(), envelope()])
    run(publisher)
    outbox.flush()
    assert left(database[1]) == ["InvalidMessageContents"]
    age(database[1])
    assert publisher.relay() == 0


def test_a_publisher_continues_whatever_it_meets(parts: Parts, database: Stored) -> None:
    """It is its process's only way out: what was in flight is sent when its lease has run out."""
    outbox, broker, publisher = parts
    broker.answers = [RuntimeError("nobody thought of this")]
    ids = stage(outbox, [envelope()])
    ended = in_background(publisher.run)
    until(lambda: broker.sent, 10)
    age(database[1])
    until(publisher.relay, 10)
    until(lambda: broker.sent == [ids, ids], 10)
    publisher.stop()
    ended.result(10)


def test_batches_are_packed_by_bytes_too(parts: Parts, database: Stored) -> None:
    """No call is larger than the broker takes, and the order of what is staged is kept."""
    outbox, broker, publisher = parts
    ids = stage(outbox, [envelope(BATCH_BYTES // 3) for _ in range(4)])
    run(publisher)
    assert broker.sent == [ids[:2], ids[2:]]


def test_a_broker_that_went_away_gets_all_of_it_later(parts: Parts, database: Stored) -> None:
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
    assert left(database[1]) == []


class Clock:
    """The publisher's time, which stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in ("publisher", "lane"):
            shown = SimpleNamespace(monotonic=lambda: self.now, time_ns=time.time_ns)
            monkeypatch.setattr(f"orderflow.messaging.{module}.time", shown)


def due_in(publisher: Publisher, target: str) -> float:
    return publisher._lane(Channel.QUEUE, target)._pause()


def entries(target: str, number: int) -> list[Entry]:
    return [
        Entry(e.id, Channel.QUEUE, target, Parcel(e, e.encode()), 2000.0) for e in (envelope() for _ in range(number))
    ]


def test_what_was_staged_alone_is_sent_at_once(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """One order at a time waits for nobody."""
    Clock(monkeypatch)
    parts[2].hand_over(entries("inventory", 1))
    assert due_in(parts[2], "inventory") <= 0


def test_a_batch_waits_a_moment_for_company(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches for two destinations make two calls of eight, not four of four."""
    _, broker, publisher = parts
    clock = Clock(monkeypatch)
    both = {name: entries(name, 8) for name in ("inventory", "payment")}
    for half in (slice(0, 4), slice(4, 8)):
        publisher.hand_over([*both["inventory"][half], *both["payment"][half]])
        clock.now += 0.005
    assert 0 < due_in(publisher, "inventory") < 0.015
    clock.now += 0.015
    assert due_in(publisher, "payment") <= 0
    run(publisher)
    assert broker.sent == [[e.id for e in both[name]] for name in ("inventory", "payment")]


def test_one_that_is_staged_while_others_are_sent_waits_for_company(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sign of load, too; but not a call that hangs, which says nothing of it."""
    _, broker, publisher = parts
    clock = Clock(monkeypatch)
    due: list[float] = []
    send = broker.send

    def sending(*arguments: Any) -> Any:
        for took in (0.0, 0.1, 0.2):
            clock.now += took
            publisher.hand_over(entries(name := f"target-{len(due)}", 1))
            due.append(due_in(publisher, name))
        return send(*arguments)

    monkeypatch.setattr(broker, "send", sending)
    publisher.hand_over(entries("inventory", 1))
    publisher.step()
    assert due[:3] == [pytest.approx(0.015), pytest.approx(0.015), pytest.approx(0.0)]
    publisher.hand_over(entries("payment", 1))
    assert due_in(publisher, "payment") <= 0, "it has been sent"


def test_ten_for_one_destination_wait_no_longer(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full batch goes at once, whatever waits elsewhere."""
    publisher = parts[2]
    Clock(monkeypatch)
    publisher.hand_over(entries("inventory", 2))
    publisher.hand_over(entries("payment", BATCH))
    assert due_in(publisher, "payment") <= 0
    assert due_in(publisher, "inventory") > 0


def test_a_rolled_back_transaction_sends_nothing(parts: Parts, database: Stored) -> None:
    outbox, _, publisher = parts

    def fail() -> None:
        with outbox.transaction() as unit:
            unit.stage([envelope()])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not publisher.waiting
    assert left(database[1]) == []


@pytest.mark.row(11)
@pytest.mark.parametrize(("rounds", "each"), sizes((100, 3), (1000, 10)))
def test_the_relay_skips_no_row_that_commits_late(
    database: Stored, rounds: int, each: int, measured: Callable[..., None]
) -> None:
    """Row 11: of two writers the one with the lower ids commits last, after the relay has sent the other's, again and
    again; every message is sent once. (Ids are minted when rows are stored, which is right before the commit.)"""
    own, url = database
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
