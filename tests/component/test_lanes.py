"""Each destination is a lane of its own: what one does is no other's business (FAULTS rows 26 and 27)."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any

import pytest
from structlog.testing import capture_logs

from orderflow import clock
from orderflow import contracts as c
from orderflow.broker import BATCH, BatchRefused, Parcel, SendFailure
from orderflow.broker.memory import MemoryBroker
from orderflow.contracts import EventBus, Message, Workflow
from orderflow.database import Database
from orderflow.envelope import compose
from orderflow.errors import BrokerUnavailable, DatabaseUnavailable
from orderflow.messaging import backlog, lane
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.publisher import Publisher
from orderflow.routing import Channel
from tests.component.test_publisher import envelope, run, stage
from tests.support.load import sizes
from tests.support.provider_process import in_background
from tests.support.system import until

Key = tuple[Channel, str]
Send = Callable[[Sequence[Parcel]], Sequence[SendFailure]]

# One message for each destination that a service can have: workflow, bus, message.
LANES: dict[Key, tuple[Workflow, EventBus, Message]] = {
    (Channel.BUS, "sns"): (Workflow.CHOREOGRAPHY, EventBus.SNS, c.StockReleased()),
    (Channel.BUS, "eventbridge"): (Workflow.CHOREOGRAPHY, EventBus.EVENTBRIDGE, c.StockReleased()),
    (Channel.QUEUE, "inventory"): (Workflow.ORCHESTRATION, EventBus.SNS, c.ReleaseStock()),
    (Channel.QUEUE, "orchestrator"): (Workflow.ORCHESTRATION, EventBus.SNS, c.StockReleased()),
    (Channel.START, "step-functions"): (Workflow.STEP_FUNCTIONS, EventBus.SNS, c.OrderPlaced.model_construct()),
    (Channel.TOKEN, "step-functions"): (Workflow.STEP_FUNCTIONS, EventBus.SNS, c.StockReleased()),
}


class Faulty(MemoryBroker):
    """Takes everything, but for what `faults` say by destination. `calls` holds what was sent, by destination."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: dict[Key, Send] = {}
        self.calls: dict[Key, list[list[str]]] = defaultdict(list)
        self.taken: dict[Key, list[str]] = defaultdict(list)

    def send(self, channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        key = channel, target
        ids = [parcel.envelope.id for parcel in batch]
        self.calls[key].append(ids)
        failed = self.faults[key](batch) if key in self.faults else ()
        self.taken[key] += [i for n, i in enumerate(ids) if n not in {failure.index for failure in failed}]
        return failed


def unavailable(code: str = "") -> Send:
    def fail(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        raise BrokerUnavailable(f"{code or 'connection refused'} when calling the Send operation", code)

    return fail


def refused(code: str, *, final: bool = False, only: str = "") -> Send:
    """The whole call, if `only` (an id) is in it."""

    def fail(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        if not only or only in [parcel.envelope.id for parcel in batch]:
            raise BatchRefused(f"{code} when calling the Send operation", code, final=final)
        return ()

    return fail


def entries(code: str, *, destination: bool, only: str = "") -> Send:
    """Entries of a call that was answered."""

    def fail(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        return [
            SendFailure(i, f"{code}: no", False, code, destination)
            for i, parcel in enumerate(batch)
            if only in ("", parcel.envelope.id)
        ]

    return fail


FAULTS: dict[str, Send] = {
    "no answer": unavailable(),
    "throttled": unavailable("ThrottlingException"),
    "throttled by entry": entries("Throttled", destination=True),
    "denied": unavailable("AccessDenied"),
    "missing": unavailable("StateMachineDoesNotExist"),
    "set up wrong": refused("InvalidParameter"),
    "set up wrong, by entry": entries("InvalidParameterValue", destination=False),
}


@pytest.fixture(scope="module")
def database(new_database: Callable[[str | None], str]) -> Iterator[Database]:
    made = Database(new_database("inventory"), size=4)
    made.open()
    yield made
    made.close()


@pytest.fixture
def broker() -> Faulty:
    return Faulty()


@pytest.fixture
def outbox(database: Database) -> Outbox:
    database.query("DELETE FROM outbox")
    return Outbox(database, lease=60)


@pytest.fixture
def publisher(outbox: Outbox, broker: Faulty) -> Publisher:
    return Publisher(outbox, broker)


@pytest.fixture
def running(publisher: Publisher) -> Iterator[Publisher]:
    ended = in_background(publisher.run)
    yield publisher
    publisher.stop()
    ended.result(20)


def stage_for(outbox: Outbox, key: Key, number: int = 1) -> list[str]:
    workflow, event_bus, message = LANES[key]
    token = "t" if key[0] is Channel.TOKEN else None
    made = [
        compose(message, source="test", order_id=clock.new_id(), workflow=workflow, event_bus=event_bus,
                task_token=token)
        for _ in range(number)
    ]  # fmt: skip
    return stage(outbox, made)


def rows(outbox: Outbox, columns: str, order: str = "entry") -> list[Any]:
    return outbox._database.query(f"SELECT {columns} FROM outbox ORDER BY {order}")


def all_due(outbox: Outbox) -> None:
    outbox._database.query("UPDATE outbox SET leased_until = now() - interval '1 s'")


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
    until(lambda: all(sorted(broker.taken[key]) == sorted(wanted[key]) for key in others), 30)
    assert broker.calls[failing], "it was tried"
    assert not broker.taken[failing]
    del broker.faults[failing]
    mended.set()
    all_due(outbox)
    running.relay()
    until(lambda: set(broker.taken[failing]) == set(wanted[failing]), 30)
    assert rows(outbox, "parked") == [(None,)] * len(rows(outbox, "1"))


@pytest.mark.row(26)
def test_what_does_not_fit_in_memory_is_pulled_in_full_batches(
    outbox: Outbox, broker: Faulty, publisher: Publisher, measured: Callable[..., None]
) -> None:
    """After an outage: ten a call, a hundred a claim, oldest first, and no wait for a lease to run out."""
    key = Channel.QUEUE, "inventory"
    broker.faults[key] = unavailable()
    waiting = stage_for(outbox, key)
    publisher.step()
    total = 10 * lane.PULL
    waiting += [i for _ in range(total // 50) for i in stage_for(outbox, key, 50)]
    assert publisher.waiting == 1, "the others are nobody's yet"
    assert rows(outbox, "count(*)", "1") == [(total + 1,)]
    claims: list[int] = []
    claim = outbox.backlog.claim

    def counted(channel: str, target: str, limit: int) -> Any:
        found = claim(channel, target, limit)
        claims.append(len(found.entries))
        return found

    outbox.backlog.claim = counted  # type: ignore[method-assign]
    broker.faults.clear()
    broker.calls.clear()
    run(publisher)
    outbox.flush()
    sent = broker.calls[key]
    measured(waiting=total, calls=len(sent), claims=len(claims))
    assert [i for batch in sent for i in batch] == waiting
    assert [len(batch) for batch in sent] == [1] + [BATCH] * (total // BATCH), "a probe, then full batches"
    assert claims == [lane.PULL] * 10 + [0]
    assert rows(outbox, "1") == []


@pytest.mark.parametrize("number", sizes(2_000, 20_000))
@pytest.mark.row(26)
def test_threads_drain_what_waits(
    outbox: Outbox, broker: Faulty, running: Publisher, number: int, measured: Callable[..., None]
) -> None:
    """However much it is, and while more is staged, each message is sent once, by itself: nobody has to look for it."""
    keys = [(Channel.QUEUE, "inventory"), (Channel.BUS, "sns")]
    broker.faults = {key: unavailable() for key in keys}
    wanted: dict[Key, list[str]] = {key: stage_for(outbox, key) for key in keys}
    until(lambda: all(broker.calls[key] for key in keys), 10)
    for _ in range(number // 200):
        for key in keys:
            wanted[key] += stage_for(outbox, key, 100)
    broker.faults.clear()
    for _ in range(20):
        for key in keys:
            wanted[key] += stage_for(outbox, key, 5)
    until(lambda: all(len(broker.taken[key]) >= len(wanted[key]) for key in keys), 120)
    measured(messages=sum(map(len, wanted.values())))
    assert {key: sorted(broker.taken[key]) for key in keys} == {key: sorted(wanted[key]) for key in keys}


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


def test_a_broker_that_is_not_ready_gets_nothing_and_is_asked_again(
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


@pytest.mark.row(26)
def test_what_waited_for_longer_than_its_lease_needs_nobody_to_find_it(
    database: Database, broker: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lane drops it in time, and claims it when it may, again and again, until it can be sent."""
    database.query("DELETE FROM outbox")
    outbox = Outbox(database, lease=0.5)
    publisher = Publisher(outbox, broker)
    claims: list[int] = []
    claim = outbox.backlog.claim

    def counting(channel: str, target: str, limit: int) -> backlog.Claim:
        claimed = claim(channel, target, limit)
        claims.append(len(claimed.entries))
        return claimed

    monkeypatch.setattr(outbox.backlog, "claim", counting)
    ended = in_background(publisher.run)
    try:
        key = Channel.QUEUE, "inventory"
        broker.whole = False
        wanted = stage_for(outbox, key, 15)
        until(lambda: sum(claims) >= 3 * len(wanted), 20, lambda: claims)
        broker.whole = True
        until(lambda: set(broker.taken[key]) == set(wanted), 20)
    finally:
        publisher.stop()
        ended.result(20)


def test_a_database_that_is_unavailable_is_asked_again(
    outbox: Outbox, broker: Faulty, running: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pull fails, and continues where it was."""
    key = Channel.QUEUE, "inventory"
    failed = threading.Event()
    claim = outbox.backlog.claim

    def fail(channel: str, target: str, limit: int) -> Any:
        if not failed.is_set():
            failed.set()
            raise DatabaseUnavailable("gone")
        return claim(channel, target, limit)

    monkeypatch.setattr(outbox.backlog, "claim", fail)
    running._lane(*key).fall_behind()
    wanted = stage_for(outbox, key, 3)
    until(lambda: sorted(broker.taken[key]) == sorted(wanted), 10)
    assert failed.is_set()


def test_the_pull_uses_the_index(outbox: Outbox, publisher: Publisher) -> None:
    """A claim reads what it takes, and the look for destinations a step for each, however much is waiting."""
    database = outbox._database
    database.query(
        "INSERT INTO outbox (entry, order_id, channel, target, body, leased_until) "
        "SELECT gen_random_uuid(), gen_random_uuid(), 'queue', 'lane' || n % 5, '', now() - interval '1 s' * (n % 2)"
        " FROM generate_series(1, 20000) AS n"
    )
    database.query("ANALYZE outbox")
    plan = database.query(
        "EXPLAIN (ANALYZE, BUFFERS OFF, TIMING OFF, SUMMARY OFF) " + backlog._CLAIM.decode(),
        [60.0, "queue", "lane3", 100],
    )
    text = "\n".join(line for (line,) in plan)
    assert "outbox_due" in text
    assert "Seq Scan" not in text
    text = "\n".join(
        line for (line,) in database.query("EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF) " + backlog._DESTINATIONS)
    )
    assert "Seq Scan" not in text
    database.query("DELETE FROM outbox")


def test_room_is_limited(outbox: Outbox, broker: Faulty, publisher: Publisher) -> None:
    """A lane whose destination is slow keeps a few hundred messages in memory; the database has the others."""
    ids = [i for _ in range(20) for i in stage(outbox, [envelope() for _ in range(50)])]
    assert lane.CAPACITY <= publisher.waiting < lane.CAPACITY + 50
    assert publisher._lane(Channel.QUEUE, "inventory").pull(inf) == 0
    run(publisher)
    assert sorted(broker.taken[Channel.QUEUE, "inventory"]) == sorted(ids)
