"""What the consumer decides before anything is handled."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from types import SimpleNamespace
from typing import Any, cast

import pytest

from localstack.render import MAX_RECEIVES
from orderflow import clock, consumer
from orderflow.bus import Delivery, Queue
from orderflow.consumer import Consumer
from orderflow.contracts import EventBus, RefundPayment, Workflow
from orderflow.envelope import Envelope, compose
from orderflow.guard import Done
from orderflow.processor import Processor
from orderflow.receivers import Look
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


def test_a_round_of_deadlines_asks_anew_how_far_the_queue_is_handled() -> None:
    """One round may take seconds, and answers come meanwhile."""
    looks = iter([Look(0.1, 500), Look(8.0, 508), Look(inf, 509)])
    asked: list[tuple[float, float]] = []

    def sweep(lag: float, resumed: float) -> bool:
        asked.append((lag, resumed))
        return lag < inf

    service = SimpleNamespace(
        receivers=SimpleNamespace(look=lambda: next(looks)),
        sweeper=SimpleNamespace(sweep=sweep, waits=lambda: False),
        consumer=SimpleNamespace(watermark=SimpleNamespace(hearing=True)),
    )
    Service.sweep(cast(Service, service))
    assert asked == [(0.1, 500), (8.0, 508), (inf, 509)]


def test_what_waits_for_a_newer_consumer_is_no_dead_letter_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQS counts its receives; by the mean of what each delay can be."""
    monkeypatch.setattr(consumer.random, "randint", lambda least, most: (least + most) // 2)
    delays = [consumer._delay(n) for n in range(1, MAX_RECEIVES)]
    assert delays[:4] == [1, 2, 4, 8]
    assert sum(delays) > 23 * 3600
