"""A service's outbox and its publisher in a test: what is staged, and brokers that refuse."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from orderflow import clock
from orderflow import contracts as c
from orderflow.broker import Parcel, SendFailure
from orderflow.broker.memory import MemoryBroker
from orderflow.contracts import EventBus, Workflow
from orderflow.database import Database
from orderflow.envelope import Envelope, compose
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.publisher import Publisher
from orderflow.routing import Channel


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
