"""What waits for a destination is pulled from the outbox by its lane: in full batches, once, without anybody who looks
for it (FAULTS row 26)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from orderflow.broker import BATCH
from orderflow.database import Database
from orderflow.errors import DatabaseUnavailable
from orderflow.messaging import backlog, lane
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.publisher import Publisher
from orderflow.routing import Channel
from tests.support.lanes import (
    Faulty,
    Key,
    rows,
    stage_for,
    unavailable,
)
from tests.support.load import sizes
from tests.support.publishing import envelope, run, stage
from tests.support.system import until
from tests.support.threads import in_background


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


def test_a_database_that_is_unavailable_is_retried(
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
