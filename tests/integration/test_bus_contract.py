"""What orderflow requires of a broker, tested on each: the memory bus, LocalStack and moto's server."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from orderflow import clock
from orderflow import contracts as c
from orderflow.broker import BATCH, BatchRefused, Parcel
from orderflow.broker.aws import clients
from orderflow.broker.aws.broker import AwsBroker
from orderflow.contracts import EventBus, Message, Workflow
from orderflow.envelope import MAX_BYTES, compose
from orderflow.errors import BrokerUnavailable
from orderflow.routing import SERVICES, TABLE, Channel
from orderflow.settings import Settings
from tests.support.buses import Emulated, Memory, by_template, moto, receive_all
from tests.support.system import System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("system")]

EVENTS = [(w, m) for w, table in TABLE.items() for m, cell in table.items() if cell.channel is Channel.BUS]
BUSES = list(EventBus)


@pytest.fixture(scope="module", params=["memory", "localstack", "moto"])
def bus(request: pytest.FixtureRequest) -> Iterator[Memory | Emulated]:
    """A broker with a stack of its own."""
    if request.param == "memory":
        yield Memory()
    elif request.param == "localstack":
        system: System = request.getfixturevalue("system")
        yield Emulated(system.url("localstack"), by_template)
    else:
        pytest.importorskip("moto.server", reason="moto's server is not installed: make install")
        with moto() as made:
            yield made


def parcel(
    message: type[Message] = c.OrderCancelled, workflow: Workflow = Workflow.CHOREOGRAPHY, size: int = 0
) -> Parcel:
    envelope = compose(
        message.model_construct(), source="test", order_id=clock.new_id(), workflow=workflow, event_bus=EventBus.SNS
    )
    if size:
        filler = envelope.model_copy(update={"data": {"x": ""}})
        envelope = envelope.model_copy(update={"data": {"x": "a" * (size - len(filler.encode()))}})
    return Parcel(envelope, envelope.encode())


def empty(bus: Memory | Emulated) -> None:
    for service in SERVICES:
        receive_all(bus, service, 0)


@pytest.mark.parametrize("event_bus", BUSES)
def test_an_event_reaches_exactly_its_listeners(bus: Memory | Emulated, event_bus: EventBus) -> None:
    """Every event of every workflow, in batches of ten; the body is the envelope itself."""
    empty(bus)
    parcels = [parcel(message, workflow) for workflow, message in EVENTS]
    for i in range(0, len(parcels), BATCH):
        assert not bus.broker.send(Channel.BUS, event_bus.value, parcels[i : i + BATCH])
    for service in SERVICES:
        wanted = [
            p.envelope.id
            for (workflow, message), p in zip(EVENTS, parcels, strict=True)
            if service in TABLE[workflow][message].listeners
        ]
        got = [bus.decode(delivery) for delivery in receive_all(bus, service, len(wanted))]
        assert sorted(e.id for e in got) == sorted(wanted), f"{service} over {event_bus}"
        assert all(envelope in [p.envelope for p in parcels] for envelope in got)


@pytest.mark.parametrize("service", SERVICES)
def test_a_command_reaches_its_service_only(bus: Memory | Emulated, service: str) -> None:
    empty(bus)
    sent = [parcel(workflow=Workflow.ORCHESTRATION) for _ in range(BATCH)]
    assert not bus.broker.send(Channel.QUEUE, service, sent)
    for other in SERVICES:
        got = [delivery.body for delivery in receive_all(bus, other, BATCH if other == service else 0, wait=2)]
        assert sorted(got) == (sorted(p.body for p in sent) if other == service else [])


@pytest.mark.parametrize("event_bus", BUSES)
@pytest.mark.row(23)
def test_a_newer_version_reaches_its_listeners_too(bus: Memory | Emulated, event_bus: EventBus) -> None:
    """It must wait in the queue for its consumer, and not be filtered out before that."""
    empty(bus)
    known = parcel(c.OrderPlaced)
    newer = known.envelope.model_copy(update={"type": "orderflow.OrderPlaced.v2"})
    assert not bus.broker.send(Channel.BUS, event_bus.value, [Parcel(newer, newer.encode())])
    assert [bus.decode(d) for d in receive_all(bus, "inventory", 1)] == [newer]


def test_what_is_not_deleted_comes_again(bus: Memory | Emulated) -> None:
    """Made visible at once, it is delivered again, and counted."""
    empty(bus)
    queue = bus.broker.queue("payment")
    bus.broker.send(Channel.QUEUE, "payment", [parcel()])
    [first] = queue.receive(10, 2)
    assert first.receive_count == 1
    assert queue.receive(10, 0) == []
    queue.extend([first], 0)
    [second] = queue.receive(10, 2)
    assert second.body == first.body
    assert second.receive_count == 2
    queue.delete([second])
    assert queue.receive(10, 0) == []


def test_a_refused_message_is_a_dead_letter_with_its_reason(bus: Memory | Emulated) -> None:
    empty(bus)
    queue = bus.broker.queue("shipping")
    bus.broker.send(Channel.QUEUE, "shipping", [parcel()])
    [delivery] = queue.receive(10, 2)
    queue.park(delivery, "no envelope: \x00 \ud800 \N{SNOWMAN}" if isinstance(bus, Emulated) else "no envelope")
    assert queue.receive(10, 0) == []
    [(body, reason)] = bus.parked("shipping")
    assert body == delivery.body
    assert reason.startswith("no envelope")


def test_dead_letters_are_listed_redriven_and_discarded(bus: Memory | Emulated) -> None:
    """Received dead letters are invisible to others until they are returned; a redriven one arrives unchanged."""
    empty(bus)
    bus.parked("shipping")
    queue = bus.broker.queue("shipping")
    sent = [parcel() for _ in range(12)]
    for batch in (sent[:10], sent[10:]):
        bus.broker.send(Channel.QUEUE, "shipping", batch)
    for _ in range(2):
        for delivery in queue.receive(10, 2):
            queue.park(delivery, "a reason")
    own, *others = bus.broker.dead_letters("shipping")
    assert (own.depth(), [other.depth() for other in others]) == (12, [0] * len(others))
    letters = own.take(10) + own.take(10)
    assert sorted(letter.body for letter in letters) == sorted(p.body for p in sent)
    assert {(letter.queue, letter.reason, letter.receives) for letter in letters} == {("shipping-dlq", "a reason", 1)}
    assert own.take(10) == []
    own.give_back(letters[:6])
    again = own.take(10)
    assert {letter.id for letter in again} == {letter.id for letter in letters[:6]}
    own.discard(again[:1])
    back = [*again[1:], *letters[6:]]
    assert len(own.redrive(back)) == 11
    assert own.depth() == 0
    assert sorted(d.body for d in receive_all(bus, "shipping", 11)) == sorted(letter.body for letter in back)


def test_nothing_is_ready_without_the_marker(bus: Memory | Emulated) -> None:
    """Publishers wait: topic and bus would accept and drop messages without a subscription."""
    assert bus.broker.ready()
    bus.break_stack()
    try:
        assert not bus.broker.ready()
    finally:
        bus.mend_stack()
    until(bus.broker.ready, 10)


@pytest.mark.parametrize(("channel", "target"), [(Channel.QUEUE, "order"), (Channel.BUS, "sns")])
@pytest.mark.row(13)
def test_a_batch_that_is_too_large_is_refused_whole(bus: Memory | Emulated, channel: Channel, target: str) -> None:
    """Its entries may still be accepted one by one: the publisher tries that (FAULTS row 13)."""
    if not bus.limits:
        pytest.skip("this broker has no limit of size (docs/emulators.md)")
    sent = [parcel(size=120_000) for _ in range(BATCH)]  # over 1 MiB, the larger of the two limits
    with pytest.raises(BatchRefused):
        bus.broker.send(channel, target, sent)


TOO_LONG = 4096
"""The bytes of a message that a queue with half that limit refuses."""


@pytest.mark.parametrize(("channel", "target"), [(Channel.QUEUE, "shipping"), (Channel.BUS, "eventbridge")])
@pytest.mark.row(13)
def test_one_entry_is_refused_and_the_others_go(bus: Memory | Emulated, channel: Channel, target: str) -> None:
    """The broker accepts nine of ten, and says which one it refuses, and why (FAULTS row 13). Invalid JSON is the
    message's own fault; a queue that accepts less than we ever send is misconfigured. SNS on LocalStack accepts all or
    none.
    """
    if not isinstance(bus, Emulated) or not bus.limits:
        pytest.skip("this broker accepts whatever it is sent (docs/emulators.md)")
    empty(bus)
    sent = [parcel(c.OrderPlaced) for _ in range(BATCH)]
    sent[3] = parcel(size=TOO_LONG) if channel is Channel.QUEUE else Parcel(sent[3].envelope, "no JSON")
    with bus.shortest_queue("shipping", TOO_LONG // 2):
        [failure] = bus.broker.send(channel, target, sent)
    assert (failure.index, failure.final) == (3, channel is Channel.BUS)
    assert failure.code
    assert failure.reason
    receiver = target if channel is Channel.QUEUE else "inventory"
    assert sorted(d.body for d in receive_all(bus, receiver, 9)) == sorted(p.body for p in sent if p is not sent[3])


@pytest.mark.parametrize(
    ("channel", "target"), [(Channel.QUEUE, "inventory"), *((Channel.BUS, event_bus.value) for event_bus in BUSES)]
)
@pytest.mark.row(16)
def test_the_largest_message_arrives_whole(bus: Memory | Emulated, channel: Channel, target: str) -> None:
    """An envelope of exactly the cap passes through every channel, with the overhead of a call (FAULTS row 16)."""
    empty(bus)
    largest = parcel(c.OrderPlaced, size=MAX_BYTES)
    assert len(largest.body) == MAX_BYTES
    assert not bus.broker.send(channel, target, [largest])
    [delivery] = receive_all(bus, "inventory", 1)
    assert bus.decode(delivery) == largest.envelope


def test_an_unavailable_broker_is_reported() -> None:
    """It is not ready; it neither hangs nor raises another kind of error."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    broker = AwsBroker(Settings(aws_endpoint_url=f"http://127.0.0.1:{port}"))
    assert not broker.ready()
    with pytest.raises(BrokerUnavailable):
        broker.send(Channel.QUEUE, "order", [parcel()])
    with pytest.raises(BrokerUnavailable):
        broker.queue("order").receive(10, 0)


def test_one_call_a_batch(bus: Memory | Emulated) -> None:
    """Ten messages are one call, and calls are counted by operation."""
    if isinstance(bus, Memory):
        pytest.skip("the memory bus makes no calls")
    before = clients.calls["sns", "PublishBatch"]
    bus.broker.send(Channel.BUS, "sns", [parcel() for _ in range(BATCH)])
    assert clients.calls["sns", "PublishBatch"] == before + 1
