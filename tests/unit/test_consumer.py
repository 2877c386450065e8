"""What the consumer decides before anything is handled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from localstack.render import MAX_RECEIVES
from orderflow import clock, consumer
from orderflow.bus import Delivery, Queue
from orderflow.consumer import Consumer
from orderflow.contracts import EventBus, RefundPayment, Workflow
from orderflow.envelope import Envelope, compose
from orderflow.errors import BrokerUnavailable
from orderflow.guard import Done
from orderflow.processor import Processor
from orderflow.service import Service


class Hand:
    """A queue that holds one batch, and a processor that notes what it is given."""

    def __init__(self, envelopes: Sequence[Envelope]) -> None:
        self.waiting = [Delivery(e.encode(), f"receipt-{i}", 1, f"broker-{i}") for i, e in enumerate(envelopes)]
        self.handled: list[Envelope] = []
        self.deleted: list[str] = []

    def receive(self, limit: int, wait: int) -> list[Delivery]:
        return self.waiting

    def process(self, envelopes: Sequence[Envelope]) -> list[Done]:
        self.handled += envelopes
        return [Done() for _ in envelopes]

    def delete(self, deliveries: Sequence[Delivery]) -> None:
        self.deleted += [d.receipt for d in deliveries]


def consuming(hand: Any) -> Consumer:
    return Consumer(
        cast(Queue, hand), cast(Processor, hand), database_alive=lambda: True, long_poll=20, visibility=30, heartbeat=10
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_a_message_and_its_repeats_in_one_batch_the_last_one_sent_is_handled(order: tuple[int, ...]) -> None:
    """A step of Step Functions that is asked again has another token; the earlier one is spent."""
    first = compose(
        RefundPayment(), source="machine", order_id=clock.new_id(), workflow=Workflow.STEP_FUNCTIONS,
        event_bus=EventBus.SNS, task_token="token-0",
    )  # fmt: skip
    sent = [first.model_copy(update={"resend": n, "tasktoken": f"token-{n}"}) for n in range(3)]
    hand = Hand([sent[n] for n in order])
    assert consuming(hand).step(0) == 3
    assert [e.tasktoken for e in hand.handled] == ["token-2"]
    assert sorted(hand.deleted) == ["receipt-0", "receipt-1", "receipt-2"], "acknowledged together"


class Polled(Hand):
    """A queue whose polls take as long as a test says, by a clock of its own; `during` happens within them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__([])
        self.now = 100_000.0
        self.during: Callable[[], None] = lambda: None
        monkeypatch.setattr(consumer.time, "monotonic", lambda: self.now)

    def receive(self, limit: int, wait: int) -> list[Delivery]:
        self.during()
        return self.waiting[:limit]


def message() -> Envelope:
    return compose(
        RefundPayment(),
        source="machine",
        order_id=clock.new_id(),
        workflow=Workflow.CHOREOGRAPHY,
        event_bus=EventBus.SNS,
    )


def test_a_queue_counts_as_drained_only_by_an_empty_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline may be looked at only then: what it waits for may be in the queue."""
    hand = Polled(monkeypatch)
    consumer = consuming(hand)
    assert consumer.drained_ago() == float("inf"), "never asked"
    full = [Delivery(message().encode(), f"receipt-{i}", 1, f"broker-{i}") for i in range(10)]
    hand.waiting = full
    consumer.step(20)
    assert consumer.drained_ago() >= 3600, "a full batch: there may be more"
    hand.waiting = full[:9]
    consumer.step(20)
    hand.now += 7
    assert consumer.drained_ago() == 7, "less than a batch: that was all, when the poll began"
    seen: dict[float, float] = {}

    def hang() -> None:
        for waited in (2, 5, 20, 60):
            hand.now += waited - max(seen, default=0)
            seen[waited] = consumer.drained_ago()

    hand.during, hand.waiting = hang, []
    consumer.step(20)
    assert seen == {2: 9, 5: 0, 20: 0, 60: 67}, "a poll that waits finds nothing, unless its broker hangs"


def test_a_broker_that_is_away_has_not_drained_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its polls hang and fail, again and again; each starts to wait anew."""
    hand = Polled(monkeypatch)
    consumer = consuming(hand)
    consumer.step(20)
    seen: list[float] = []

    def hang() -> None:
        hand.now += 10
        seen.append(consumer.drained_ago())
        if len(seen) == 3:
            consumer.stop()
        raise BrokerUnavailable("no answer")

    hand.during = hang
    monkeypatch.setattr("orderflow.consumer._PAUSE", 0)
    consumer.run()
    assert seen == [0, 20, 30], "at the first nobody can know"


def test_a_round_of_deadlines_asks_anew_whether_the_queue_is_drained() -> None:
    """One round may take seconds, and answers come meanwhile."""
    ages = iter([0.1, 8.0, float("inf")])
    asked: list[float] = []

    def sweep(drained_ago: float) -> bool:
        asked.append(drained_ago)
        return True

    service = SimpleNamespace(
        consumer=SimpleNamespace(drained_ago=lambda: next(ages)), sweeper=SimpleNamespace(sweep=sweep)
    )
    Service.sweep(cast(Service, service))
    assert asked == [0.1, 8.0]


def test_what_waits_for_a_newer_consumer_is_no_dead_letter_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQS counts its receives; by the mean of what each delay can be."""
    monkeypatch.setattr(consumer.random, "randint", lambda least, most: (least + most) // 2)
    delays = [consumer._delay(n) for n in range(1, MAX_RECEIVES)]
    assert delays[:4] == [1, 2, 4, 8]
    assert sum(delays) > 23 * 3600
