"""FAULTS row 29: a bug in any stage of the pipeline, for one message in ten.

It is counted for its message, which is dead-lettered at five; the nine others of its batch are handled at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Final

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orderflow.contracts import Item, OrderAccepted, StockReserved, Workflow
from orderflow.envelope import Envelope
from orderflow.messaging import consumer, handling, inbox, tracing
from orderflow.messaging.application import Incoming
from orderflow.providers.calls import ProviderApplication
from services.inventory import handlers, models
from tests.support.guards import MESSAGES, bring
from tests.support.world import World

pytestmark = [pytest.mark.row(29), pytest.mark.usefixtures("nothing_failed_yet")]


BUG: Final = KeyError("a bug")


Patch = Callable[[pytest.MonkeyPatch, str], None]


def raising(module: Any, name: str, picked: Callable[..., bool]) -> Patch:
    """`module.name` has a bug for what is `picked` by its arguments and the bad order's id."""

    def patch(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
        real = getattr(module, name)

        def buggy(*args: Any, **kwargs: Any) -> Any:
            if picked(bad, *args):
                raise BUG
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, buggy)

    return patch


def answering(message: Any) -> Patch:
    """Inventory's handler causes `message` for the bad order."""

    def patch(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
        real = handlers.Inventory.handle

        def buggy(self: Any, unit: Any, batch: Sequence[Incoming]) -> Any:
            replies = real(self, unit, batch)
            return [[message] if m.order_id == bad else r for m, r in zip(batch, replies, strict=True)]

        monkeypatch.setattr(handlers.Inventory, "handle", buggy)

    return patch


def in_batch(bad: str, _: Any, __: Any, batch: Sequence[Incoming]) -> bool:
    return any(m.order_id == bad for m in batch)


STAGES: Final[dict[str, tuple[str, Patch]]] = {
    "decode": ("inventory", raising(consumer, "decode", lambda bad, body: bad in body)),
    "message": ("inventory", raising(Envelope, "message", lambda bad, envelope: envelope.subject == bad)),
    "handle": ("inventory", raising(handlers.Inventory, "handle", in_batch)),
    "statement": ("inventory", raising(models, "add", lambda bad, _, rows: any(r.order_id == bad for r in rows))),
    "answer": ("inventory", raising(Incoming, "answer", lambda bad, incoming, *_: incoming.order_id == bad)),
    "unroutable": ("inventory", answering(OrderAccepted())),
    "too large": ("inventory", answering(StockReserved(items=(Item(sku="B" * 64, quantity=1),) * 3000))),
    "intent": ("payment", raising(ProviderApplication, "begin", in_batch)),
    "record": ("payment", raising(ProviderApplication, "handle", in_batch)),
}


def unroutable_under(workflow: Workflow, stage: str) -> bool:
    return stage != "unroutable" or workflow is Workflow.CHOREOGRAPHY


@pytest.mark.parametrize(("stage", "workflow"), [(s, w) for s in STAGES for w in Workflow if unroutable_under(w, s)])
def test_a_bug_is_one_messages_failure(
    world: World, monkeypatch: pytest.MonkeyPatch, stage: str, workflow: Workflow
) -> None:
    """Whatever stage has it: nine are handled at their first delivery, the tenth is dead-lettered at its fifth."""
    service, patch = STAGES[stage]
    orders = bring(world, service, workflow)
    bad = orders[3]
    queue = world.broker.queues[service]
    failures = sum(n for (n,) in world.execute(service, "SELECT count FROM failures"))
    with pytest.MonkeyPatch.context() as patched:
        patch(patched, bad)
        for delivery in range(1, 6):
            while world.deliver(service):
                pass
            counted = sum(n for (n,) in world.execute(service, "SELECT count FROM failures"))
            assert counted - failures == delivery, "each time"
            if delivery == 1:
                assert len(queue.in_flight) == 1, "the others are done"
                world.settle()
                assert {world.status(o) for o in orders if o != bad} == {"CONFIRMED"}
            queue.redeliver()
    [(parked, reason)] = queue.parked
    assert bad in parked.body
    assert "failed 5 times" in reason
    queue.parked.clear()
    world.execute(service, "DELETE FROM failures")
    queue.put(parked.body)
    world.recover()
    assert world.status(bad) in ("CONFIRMED", "CANCELLED")


def test_a_reaction_that_raises(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows nothing of the order but what is in its event."""
    good = bring(world, "inventory", Workflow.CHOREOGRAPHY)
    [bad] = [world.place(postal_code="10999")]
    world.publish("order")
    real = handlers.reactions.react

    def buggy(message: Any) -> Any:
        if getattr(message, "order", None) and message.order.address.postal_code == "10999":
            raise BUG
        return real(message)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(handlers.reactions, "react", buggy)
        for _ in range(5):
            while world.deliver("inventory"):
                pass
            world.broker.queues["inventory"].redeliver()
        world.settle()
    assert {world.status(o) for o in good} == {"CONFIRMED"}
    assert [reason for _, reason in world.parked() if "failed 5 times" in reason]
    world.broker.queues["inventory"].put(world.broker.queues["inventory"].parked.pop()[0].body)
    world.recover()
    assert world.status(bad) == "CONFIRMED"


def test_tracing_decides_nothing(world: World, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that fails, before the handling or after it, costs its span."""
    orders = bring(world, "inventory", Workflow.CHOREOGRAPHY)
    with pytest.MonkeyPatch.context() as patched:
        raising(tracing, "_about", lambda bad, e: e.subject == bad)(patched, orders[0])
        patched.setattr(handling, "metrics", SimpleNamespace())
        while world.deliver("inventory"):
            pass
        assert not world.broker.queues["inventory"].in_flight
    assert world.execute("inventory", "SELECT count(*) FROM failures") == [(0,)]
    world.settle()
    assert {world.status(o) for o in orders} == {"CONFIRMED"}


def test_a_lost_race_is_no_failure(world: World) -> None:
    """A twin of a message was first, in the middle of the batch: the message is known at once, and so done."""
    orders = bring(world, "inventory", Workflow.CHOREOGRAPHY)
    real, lost = inbox.claim, list[str]()

    def claim(connection: Any, service: str, outcomes: Sequence[tuple[str, str]]) -> None:
        if not lost:
            lost.append(outcomes[3][0])
            world.execute("inventory", "INSERT INTO inbox VALUES ('inventory', %s, '')", [lost[0]])
        real(connection, service, outcomes)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(inbox, "claim", claim)
        assert world.deliver("inventory") == MESSAGES
    assert lost
    assert not world.broker.queues["inventory"].in_flight
    assert world.execute("inventory", "SELECT count(*) FROM failures") == [(0,)]
    world.recover()
    assert {world.status(o) for o in orders} == {"CONFIRMED"}
