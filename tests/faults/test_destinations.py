"""FAULTS rows 26 and 27 in every workflow: the broker, or one of its destinations, accepts nothing for a while.

In one process (see `tests.support.world`); the lanes with their threads are in tests/component/test_lanes.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

import pytest

from orderflow.broker import BATCH, BatchRefused, Parcel, SendFailure
from orderflow.contracts import EventBus, Workflow
from orderflow.errors import BrokerUnavailable
from orderflow.routing import TABLE, Channel
from tests.support.load import each_kind, sizes
from tests.support.oracle import check
from tests.support.system import KINDS
from tests.support.world import World, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Kind = tuple[Workflow, EventBus]
Key = tuple[Channel, str]
Sent = list[tuple[Key, int]]
Fault = Callable[[Sequence[Parcel]], Sequence[SendFailure]]


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database) as made:
        yield made


def unavailable(code: str) -> Fault:
    def fail(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        raise BrokerUnavailable(f"{code or 'no answer'}", code)

    return fail


def set_up_wrong(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
    raise BatchRefused("InvalidParameter: of the topic, maybe", "InvalidParameter")


def throttled_by_entry(batch: Sequence[Parcel]) -> Sequence[SendFailure]:
    return [SendFailure(i, "Throttled: slow down", False, "Throttled", destination=True) for i in range(len(batch))]


FAULTS = {
    "no answer": unavailable(""),
    "throttled": unavailable("ThrottlingException"),
    "by entry": throttled_by_entry,
    "denied": unavailable("AccessDenied"),
    "missing": unavailable("AWS.SimpleQueueService.NonExistentQueue"),
    "set up wrong": set_up_wrong,
}


@contextmanager
def sending(world: World, faults: dict[Key, Fault]) -> Iterator[Sent]:
    """Records what the services send, by destination and batch size; some destinations accept nothing."""
    sent: Sent = []
    send = world.broker.send

    def send_or_fail(channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        sent.append(((channel, target), len(batch)))
        fault = faults.get((channel, target))
        return fault(batch) if fault else send(channel, target, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.broker, "send", send_or_fail)
        yield sent


def destinations(kind: Kind) -> set[Key]:
    """All destinations to which a workflow may send."""
    cells = TABLE[kind[0]].values()
    return {
        (cell.channel, kind[1].value if cell.channel is Channel.BUS else cell.listeners[0])
        for cell in cells
        if cell.channel is not Channel.NONE
    }


def place(world: World, kind: Kind, number: int = 1) -> list[str]:
    return [world.place(workflow=kind[0], event_bus=kind[1]) for _ in range(number)]


@pytest.mark.parametrize("kind", each_kind())
@pytest.mark.row(27)
def test_orders_that_need_another_destination_are_confirmed_meanwhile(
    world: World, kind: Kind, measured: Callable[..., None]
) -> None:
    """Each destination of the workflow fails in turn, in a different way each time. Orders of workflows that don't need
    it end meanwhile, and its own orders end once it accepts messages again; nothing is dead-lettered."""
    with sending(world, {}) as sent:
        orders = place(world, kind)
        world.settle()
    faults, tried = cycle(FAULTS.items()), Counter[str]()
    for failing in sorted({key for key, _ in sent}):
        name, fault = next(faults)
        with sending(world, {failing: fault}) as attempts:
            own = place(world, kind, 3)
            others = [order_id for k in KINDS if failing not in destinations(k) for order_id in place(world, k)]
            world.settle()
            assert {world.status(order_id) for order_id in others} <= {"CONFIRMED"}, f"{failing} {name}"
            assert "CONFIRMED" not in {world.status(order_id) for order_id in own} or failing == sent[-1][0]
            tried[name] += sum(key == failing for key, _ in attempts)
        world.recover()
        orders += own + others
    assert all(tried.values()), tried
    assert {world.status(order_id) for order_id in orders} == {"CONFIRMED"}
    measured(destinations=len({key for key, _ in sent}), refused_calls=sum(tried.values()))
    check(world.urls, acknowledged=orders)
    assert world.parked() == []


@pytest.mark.parametrize("number", sizes(60, 600))
@pytest.mark.parametrize("kind", each_kind())
@pytest.mark.row(26)
def test_what_was_taken_without_a_broker_is_sent_in_full_batches(
    world: World, kind: Kind, number: int, measured: Callable[..., None]
) -> None:
    """Orders are accepted while nothing can be sent, for longer than the leases of the staged messages; then all of
    them are sent, ten per call, and every order is confirmed."""
    first = {(route.channel, kind[1].value if route.channel is Channel.BUS else route.listeners[0])
             for message, route in TABLE[kind[0]].items() if message.__name__ == "OrderPlaced"}  # fmt: skip
    with sending(world, {key: unavailable("") for key in destinations(kind)}) as sent:
        orders = place(world, kind, number // 2)
        world.publish("order")
        world.relay()
        orders += place(world, kind, number - number // 2)
        world.publish("order")
        assert sent, "it was tried"
        assert not any(queue.waiting for queue in world.broker.queues.values())
    with sending(world, {}) as sent:
        world.relay()
        calls = [size for key, size in sent if key in first]
        assert sum(calls) == number
        assert len(calls) <= number / BATCH + 2, "a probe, full batches and a rest"
        world.recover()
    measured(orders=number, calls=len(calls))
    assert {world.status(order_id) for order_id in orders} == {"CONFIRMED"}
    check(world.urls, acknowledged=orders)
    assert world.parked() == []


@pytest.mark.row(27)
def test_what_waits_is_told_by_destination(world: World) -> None:
    """`/metrics` names the destination that accepts nothing, how many messages wait for it, and why."""
    destination = '{channel="queue",target="orchestrator"}'
    with sending(world, {(Channel.QUEUE, "orchestrator"): unavailable("AccessDenied")}):
        orders = place(world, (Workflow.ORCHESTRATION, EventBus.SNS), 3)
        world.settle()
        told = world.http("order").get("/metrics").text.splitlines()
        assert f"orderflow_lane_messages{destination} 3.0" in told
        assert f"orderflow_lane_unavailable{destination} 1.0" in told
        assert "orderflow_outbox_messages 3.0" in told
        [lag] = [line for line in told if line.startswith(f"orderflow_lane_lag_seconds{destination} ")]
        assert 0 < float(lag.split()[-1]) < 60
        assert any(
            line.startswith('orderflow_send_failures_total{channel="queue",code="AccessDenied",target="orchestrator"}')
            for line in told
        )
    world.recover()
    assert {world.status(order_id) for order_id in orders} == {"CONFIRMED"}
    told = world.http("order").get("/metrics").text.splitlines()
    assert f"orderflow_lane_unavailable{destination} 0.0" in told
    assert "orderflow_outbox_messages 0.0" in told
