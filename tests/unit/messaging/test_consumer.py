"""What the consumer decides before anything is handled."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deploy.stack.render import MAX_RECEIVES
from orderflow import clock
from orderflow.broker import Delivery, Queue
from orderflow.contracts import EventBus, RefundPayment, Workflow
from orderflow.envelope import Envelope, compose
from orderflow.errors import DatabaseUnavailable
from orderflow.messaging import consumer
from orderflow.messaging.consumer import Consumer
from orderflow.messaging.guard import Done, Retry
from orderflow.messaging.processor import Processor
from orderflow.messaging.receivers import Look
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
    """A step of Step Functions that is retried has another token; the earlier one is spent."""
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


def test_an_owner_that_is_far_behind_asks_its_queue_itself() -> None:
    """Its threads may sit in long polls. Not while it does not hear, nor where nothing is due."""
    steps: list[int] = []

    def swept(lag: float, *, hearing: bool = True, due: bool = True) -> int:
        steps.clear()
        service = SimpleNamespace(
            receivers=SimpleNamespace(look=lambda: Look(lag, inf)),
            sweeper=SimpleNamespace(sweep=lambda lag, resumed: False, waits=lambda: due),
            consumer=SimpleNamespace(watermark=SimpleNamespace(hearing=hearing), step=steps.append),
        )
        Service.sweep(cast(Service, service))
        return len(steps)

    assert swept(20.0) == swept(inf) == 1
    assert not swept(4.0)
    assert not swept(20.0, due=False)
    assert not swept(inf, hearing=False)


@pytest.mark.parametrize("fails", [False, True])
def test_a_long_delay_is_given_only_where_it_was_noted(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no kill hides a message for a quarter of an hour from those who would give its order up."""
    monkeypatch.setattr(consumer, "_delay", lambda count, soon=False: 900)
    envelope = compose(
        RefundPayment(), source="machine", order_id=clock.new_id(), workflow=Workflow.CHOREOGRAPHY,
        event_bus=EventBus.SNS,
    )  # fmt: skip
    hand = Hand([envelope])
    given_back: list[int] = []
    noted: list[dict[str, float]] = []

    def note(until: Any) -> None:
        if fails:
            raise DatabaseUnavailable("gone")
        noted.append(until)

    hand.process = lambda envelopes: [Retry("not yet") for _ in envelopes]  # type: ignore[method-assign, assignment, return-value]
    hand.extend = lambda deliveries, seconds: given_back.append(seconds)  # type: ignore[attr-defined]
    one = Consumer(
        cast(Queue, hand), cast(Processor, hand), database_alive=lambda: True, long_poll=20, visibility=30,
        heartbeat=10, give_back=note,
    )  # fmt: skip
    one.step(20)
    assert given_back == [30 if fails else 900]
    assert noted == ([] if fails else [{envelope.subject: 900}])
    assert (one.watermark.seen().blocked_until > 0) == fails, "then all wait for it"


def test_what_waits_for_a_newer_consumer_is_no_dead_letter_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQS counts its receives; by the mean of what each delay can be."""
    monkeypatch.setattr(consumer.random, "randint", lambda least, most: (least + most) // 2)
    delays = [consumer._delay(n) for n in range(1, MAX_RECEIVES)]
    assert delays[:4] == [1, 2, 4, 8]
    assert sum(delays) > 23 * 3600
