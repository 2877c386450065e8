"""FAULTS rows 26 and 27 in real time: how fast a backlog is sent, and what a bad destination costs a good one.

These tests measure rates and percentiles, so they run at full size only, on a machine of their own. Threads, databases
and locks are real; the broker is in memory, and its calls take as long as AWS's.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from statistics import quantiles
from typing import Final

import pytest
from pydantic import SecretStr

from orderflow import clock
from orderflow import contracts as c
from orderflow.broker import BATCH, Delivery, Parcel, SendFailure
from orderflow.broker.memory import MemoryBroker, MemoryQueue
from orderflow.contracts import EventBus, Workflow
from orderflow.database import Database
from orderflow.envelope import Envelope, compose
from orderflow.errors import BrokerUnavailable, Transient
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.publisher import Publisher
from orderflow.routing import SERVICES, Channel
from orderflow.service import Service
from orderflow.settings import Settings
from services.order.placement import Placing
from tests.support.aims import within
from tests.support.oracle import check
from tests.support.system import until
from tests.support.threads import in_background
from tests.support.world import BUILD, request

pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.timeout(3600)]

CALL: Final = 0.02
"""Seconds that a call to the broker takes."""

TARGETS: Final = {"inventory": c.ReleaseStock(), "orchestrator": c.StockReleased()}
"""One message for each of two destinations."""

Sick = Callable[[], Sequence[SendFailure]]


class SlowQueue(MemoryQueue):
    """A broker whose calls take CALL seconds."""

    def receive(self, limit: int, wait: int) -> list[Delivery]:
        found = super().receive(limit, wait)
        time.sleep(CALL)
        return found

    def delete(self, deliveries: Sequence[Delivery]) -> None:
        time.sleep(CALL)
        super().delete(deliveries)


class SlowBroker(MemoryBroker):
    """Calls take CALL seconds. `sick` destinations accept nothing; while it is `unavailable`, none does."""

    def __init__(self) -> None:
        super().__init__()
        self.queues = {service: SlowQueue() for service in SERVICES}
        self.sick: dict[str, Sick] = {}
        self.unavailable = False
        self.taken_at: dict[str, float] = {}
        self.calls: Counter[str] = Counter()

    def send(self, channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        if self.unavailable:
            raise BrokerUnavailable("connection refused")
        if target in self.sick:
            return self.sick[target]()
        time.sleep(CALL)
        now = time.monotonic()
        self.calls[target] += 1
        self.taken_at |= {parcel.envelope.id: now for parcel in batch}
        return super().send(channel, target, batch)

    def ready(self) -> bool:
        return not self.unavailable


@pytest.fixture
def broker() -> SlowBroker:
    return SlowBroker()


@pytest.fixture
def outbox(new_database: Callable[[str | None], str]) -> Iterator[Outbox]:
    database = Database(new_database("inventory"), size=6)
    database.open()
    yield Outbox(database, lease=60)
    database.close()


@pytest.fixture
def publisher(outbox: Outbox, broker: SlowBroker) -> Iterator[Publisher]:
    made = Publisher(outbox, broker)
    ended = in_background(made.run)
    yield made
    made.stop()
    ended.result(60)


def message(target: str) -> Envelope:
    return compose(
        TARGETS[target], source="test", order_id=clock.new_id(), workflow=Workflow.ORCHESTRATION,
        event_bus=EventBus.SNS, task_token=None,
    )  # fmt: skip


def stage(outbox: Outbox, target: str, number: int = 1) -> list[str]:
    made = [message(target) for _ in range(number)]
    with outbox.transaction() as unit:
        unit.stage(made)
    return [envelope.id for envelope in made]


@pytest.mark.row(26)
def test_a_backlog_drains_at_the_broker_s_rate(
    outbox: Outbox, broker: SlowBroker, publisher: Publisher, measured: Callable[..., None]
) -> None:
    """10,000 messages for one destination, staged while it is unavailable, leave at 80 % of what batches of ten one
    after the other could."""
    number = 10_000
    broker.unavailable = True
    waiting = [i for _ in range(number // 100) for i in stage(outbox, "inventory", 100)]
    broker.unavailable = False
    until(lambda: broker.taken_at, 120)
    began = min(broker.taken_at.values())
    until(lambda: len(broker.taken_at) == number, 600)
    took = max(broker.taken_at.values()) - began
    assert set(waiting) == set(broker.taken_at)
    share = number / took / (BATCH / CALL)
    measured(messages=number, a_second=round(number / took), share=round(share, 2), calls=broker.calls["inventory"])
    assert share >= 0.8 / within(1)


def throttled() -> Sequence[SendFailure]:
    raise BrokerUnavailable("slow down", "ThrottlingException")


def failing() -> Sequence[SendFailure]:
    raise BrokerUnavailable("connection refused")


def hanging() -> Sequence[SendFailure]:
    time.sleep(10)
    raise BrokerUnavailable("no answer")


@pytest.mark.row(27)
def test_a_healthy_destination_is_as_quick_as_ever(
    outbox: Outbox, broker: SlowBroker, publisher: Publisher, measured: Callable[..., None]
) -> None:
    """The time from staging to acceptance at 50 messages per second, with as many for another destination that works,
    throttles, fails or hangs: the p99 grows by at most half."""

    def p99(sick: Sick | None) -> float:
        broker.sick = {"orchestrator": sick} if sick else {}
        staged: dict[str, float] = {}
        ends = time.monotonic() + 20
        while time.monotonic() < ends:
            began = time.monotonic()
            stage(outbox, "orchestrator")
            [sent] = stage(outbox, "inventory")
            staged[sent] = time.monotonic()
            time.sleep(max(0.0, began + 0.02 - time.monotonic()))
        until(lambda: staged.keys() <= broker.taken_at.keys(), 30)
        broker.sick = {}
        waits = [broker.taken_at[i] - at for i, at in staged.items()]
        return quantiles(waits, n=100)[98]

    p99(None)  # warm
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(3):
        for name, sick in {"well": None, "throttles": throttled, "fails": failing, "hangs": hanging}.items():
            found[name].append(p99(sick))
    middle = {name: sorted(values)[1] for name, values in found.items()}
    measured(**{f"{name}_p99_ms": round(value * 1000) for name, value in middle.items()})
    assert all(value <= within(1.5) * middle["well"] for value in middle.values()), found


@pytest.mark.row(26)
@pytest.mark.parametrize(("seconds", "rate"), [(600, 75)])
def test_an_outage_of_ten_minutes_cancels_nobody(
    new_database: Callable[[str | None], str], broker: SlowBroker, seconds: int, rate: int,
    measured: Callable[..., None],
) -> None:  # fmt: skip
    """All services run with their threads, and accept orders all the time. Every order is confirmed afterwards."""
    urls = {name: new_database(name) for name in SERVICES} | {"providers": new_database(None)}
    services = {name: running(name, urls, broker) for name in SERVICES}
    placing = Placing(services["order"].settings, services["order"].database, services["order"].outbox)
    order = request(items=[{"sku": "BOOK-1", "quantity": 1}])
    placed: list[str] = []
    stopped = threading.Event()

    def place() -> None:
        began = time.monotonic()
        while not stopped.is_set():
            if len(placed) < (time.monotonic() - began) * rate:
                with suppress(Transient):  # a client repeats a request that was refused
                    placed.append(placing.place(order, None).order_id)
            else:
                stopped.wait(0.002)

    def statuses() -> Counter[str]:
        found = services["order"].database.query("SELECT status, count(*) FROM orders GROUP BY status")
        return Counter({str(status): int(count) for status, count in found})

    try:
        until(services["order"].database.alive)
        loaded = in_background(place)
        until(lambda: loaded.done() or statuses()["CONFIRMED"] > 10 * rate, 120)
        assert not loaded.done(), loaded.result()
        broker.unavailable = True
        time.sleep(seconds)
        broker.unavailable, back = False, time.monotonic()
        time.sleep(10)
        stopped.set()
        loaded.result(60)
        drained = until(lambda: statuses().keys() <= {"CONFIRMED", "CANCELLED"}, 3600, statuses)
        assert drained
        measured(orders=len(placed), drained_s=round(time.monotonic() - back), **statuses())
        assert statuses() == {"CONFIRMED": len(placed)}
    finally:
        stopped.set()
        for service in services.values():
            service.stop()
    check(urls, acknowledged=placed)


def running(name: str, urls: dict[str, str], broker: SlowBroker) -> Service:
    settings = Settings(
        aws_endpoint_url="http://memory", database_url=SecretStr(urls[name]),
        providers_database_url=SecretStr(urls["providers"]),
    )  # fmt: skip
    made = BUILD[name](settings, broker)
    made.start()
    return made
