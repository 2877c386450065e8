"""What the consumer decides before anything is handled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from orderflow import clock
from orderflow.bus import Delivery, Queue
from orderflow.consumer import Consumer
from orderflow.contracts import EventBus, RefundPayment, Workflow
from orderflow.envelope import Envelope, compose
from orderflow.processor import Done, Processor


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


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_a_message_and_its_repeats_in_one_batch_the_last_one_sent_is_handled(order: tuple[int, ...]) -> None:
    """A step of Step Functions that is asked again has another token; the earlier one is spent."""
    first = compose(
        RefundPayment(), source="machine", order_id=clock.new_id(), workflow=Workflow.STEP_FUNCTIONS,
        event_bus=EventBus.SNS, task_token="token-0",
    )  # fmt: skip
    sent = [first.model_copy(update={"resend": n, "tasktoken": f"token-{n}"}) for n in range(3)]
    hand = Hand([sent[n] for n in order])
    consumer = Consumer(
        cast(Queue, hand), cast(Processor, hand), database_alive=lambda: True, long_poll=0, visibility=30, heartbeat=10
    )
    assert consumer.step(0) == 3
    assert [e.tasktoken for e in hand.handled] == ["token-2"]
    assert sorted(hand.deleted) == ["receipt-0", "receipt-1", "receipt-2"], "acknowledged together"
