"""When the publisher sends: what is staged alone at once, and under load in full batches."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from orderflow.broker import BATCH, BATCH_BYTES, Parcel
from orderflow.messaging.backlog import Entry
from orderflow.messaging.publisher import Publisher
from orderflow.routing import Channel
from tests.support.publishing import Parts, Stored, envelope, run, stage


def test_batches_are_packed_by_bytes_too(parts: Parts, database: Stored) -> None:
    """No call is larger than the broker takes, and the order of what is staged is kept."""
    outbox, broker, publisher = parts
    ids = stage(outbox, [envelope(BATCH_BYTES // 3) for _ in range(4)])
    run(publisher)
    assert broker.sent == [ids[:2], ids[2:]]


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
