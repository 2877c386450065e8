"""The bare loop says what the services say."""

from __future__ import annotations

from typing import Any

import pytest

from lab.bare.messages import reactions, template
from lab.workload import Variant, request_body
from orderflow import clock
from orderflow.broker import Parcel
from orderflow.contracts import EventBus, OrderPlaced, Workflow
from orderflow.envelope import decode
from orderflow.routing import COORDINATOR, MACHINE, Channel
from services.order.placement import Placing
from services.order.schemas import OrderRequest
from tests.support.world import World

Said = tuple[str, str, str]
"""Sender, type, destination."""


def _spoken(world: World, variant: Variant, monkeypatch: pytest.MonkeyPatch) -> dict[Said, str]:
    """What the services say for one order, with the bodies."""
    said: dict[Said, str] = {}
    send = world.broker.send

    def listen(channel: Channel, target: str, batch: list[Parcel]) -> Any:
        for parcel in batch:
            key = (parcel.envelope.sender, parcel.envelope.name, target)
            assert key not in said
            said[key] = parcel.body
        return send(channel, target, batch)

    monkeypatch.setattr(world.broker, "send", listen)
    service = world.services["order"]
    placing = Placing(service.settings, service.database, service.outbox)
    placing.place(OrderRequest.model_validate(request_body(variant), strict=False), None)
    world.settle()
    return said


def _played(variant: Variant) -> dict[Said, str]:
    """What the bare loop says for one order: its reactions, played through the routing table."""
    order_id = clock.new_id()
    said: dict[Said, str] = {}
    waiting = [("order", OrderPlaced, order_id)]
    while waiting:
        sender, model, cause = waiting.pop(0)
        made = template(variant, model, sender)
        out = made.fill(order_id, cause)
        said[sender, decode(out.body).name, out.target] = out.body
        for listener in made.route.listeners:
            following = reactions(variant.workflow).get((listener, model.__name__))
            if following is not None:
                waiting.append((listener, following, decode(out.body).id))
    return said


# What a state machine is told is no envelope, but its own input and output.
@pytest.mark.parametrize("workflow", [w for w in Workflow if COORDINATOR[w] != MACHINE])
def test_the_bare_loop_says_what_the_services_say(
    world: World, workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same messages from the same senders to the same places, each as long as the real one and as well formed."""
    variant = Variant(workflow, EventBus.SNS)
    real, bare = _spoken(world, variant, monkeypatch), _played(variant)
    assert bare.keys() == real.keys()
    for said, body in bare.items():
        assert decode(body).message().model_fields_set == decode(real[said]).message().model_fields_set, said
        assert abs(len(body) - len(real[said])) <= 2, said
