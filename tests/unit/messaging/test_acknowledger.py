"""Acknowledgements are collected: ten a call, or what there is after a moment; none is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import eq
from typing import cast

from orderflow.broker import BATCH, Delivery, Queue
from orderflow.errors import BrokerUnavailable
from orderflow.messaging.acknowledger import Acknowledger
from tests.support.system import until


def deliveries(*numbers: int) -> list[Delivery]:
    return [Delivery("{}", f"receipt-{n}", 1, f"broker-{n}") for n in numbers]


class Calls:
    """A queue that notes each call that deletes, and what its caller was told; it fails as often as it is told to."""

    def __init__(self, failures: Sequence[Exception] = ()) -> None:
        self.failures = list(failures)
        self.deleted: list[list[str]] = []
        self.settled: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def delete(self, batch: Sequence[Delivery]) -> None:
        assert self.open.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        self.deleted.append([d.receipt for d in batch])

    def note(self, batch: Sequence[Delivery]) -> None:
        self.settled += [d.receipt for d in batch]


def receipts(*numbers: int) -> list[str]:
    return [f"receipt-{n}" for n in numbers]


@contextmanager
def working(calls: Calls) -> Iterator[Acknowledger]:
    made = Acknowledger(cast(Queue, calls), calls.note)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    until(lambda: made._running, 10, lambda: "no thread")
    try:
        yield made
    finally:
        calls.open.set()
        made.stop()
        thread.join(10)
        assert not thread.is_alive()


def test_ten_share_a_call() -> None:
    """Whoever handed them over, in their order; the rest goes with the next call."""
    calls = Calls()
    calls.open.clear()  # the first is on its way while the others come in
    with working(calls) as acknowledger:
        acknowledger.acknowledge(deliveries(*range(BATCH)))
        until(lambda: not acknowledger._waiting, 10, lambda: "not taken")
        for n in range(BATCH, BATCH + 15):
            acknowledger.acknowledge(deliveries(n))
        calls.open.set()
        until(lambda: len(calls.settled) == BATCH + 15, 10, lambda: calls.deleted)
    assert calls.deleted == [receipts(*range(10)), receipts(*range(10, 20)), receipts(*range(20, 25))]
    assert calls.settled == receipts(*range(25))


def test_one_alone_does_not_wait_for_ever() -> None:
    calls = Calls()
    with working(calls) as acknowledger:
        acknowledger.acknowledge(deliveries(1))
        until(lambda: calls.settled == receipts(1), 10, lambda: calls.deleted)


def test_at_the_end_nothing_is_left() -> None:
    """What waits is deleted at once; what comes after the thread has ended, by whoever brings it."""
    calls = Calls()
    with working(calls) as acknowledger:
        acknowledger.acknowledge(deliveries(1, 2))
    assert calls.deleted == [receipts(1, 2)]
    acknowledger.acknowledge(deliveries(3))
    assert calls.deleted == [receipts(1, 2), receipts(3)]


def test_a_broker_that_is_unavailable_costs_a_repeat_and_no_more() -> None:
    """What can't be deleted is out of hand and comes again; what comes later is deleted as ever."""
    calls = Calls([BrokerUnavailable("gone"), ValueError("something else")])
    with working(calls) as acknowledger:
        for settled in (receipts(1), receipts(1, 2), receipts(1, 2, 3)):
            acknowledger.acknowledge(deliveries(len(settled)))
            until(partial(eq, calls.settled, settled), 10, lambda: calls.settled)
    assert calls.deleted == [receipts(3)]


def test_without_a_thread_it_is_done_at_once() -> None:
    calls = Calls()
    Acknowledger(cast(Queue, calls), calls.note).acknowledge(deliveries(1, 2, 3))
    assert (calls.deleted, calls.settled) == ([receipts(1, 2, 3)], receipts(1, 2, 3))
