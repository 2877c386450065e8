"""deploy/aws/policies.yaml: what is sent is what may be sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pytest

from orderflow.broker import Parcel, SendFailure
from orderflow.contracts import EventBus
from orderflow.routing import SERVICES, Channel
from tests.support.system import KINDS
from tests.support.world import World
from tests.unit.deploy.test_stack_policies import RESOURCELESS, allowed


def test_what_is_sent_is_what_may_be_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders of all kinds, through success, refusals, cancellation, and what is resent: each service uses every way
    out that it is allowed, and no other."""
    used: dict[str, set[str]] = defaultdict(set)
    send = world.broker.send

    def recorded(channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        action = {
            Channel.BUS: "sns:Publish" if target == EventBus.SNS else "events:PutEvents",
            Channel.QUEUE: f"sqs:SendMessage {target}", Channel.START: "states:StartExecution",
            Channel.TOKEN: "states:SendTaskSuccess",
        }[channel]  # fmt: skip
        for parcel in batch:
            used[parcel.envelope.sender].add(action)
        return send(channel, target, batch)

    monkeypatch.setattr(world.broker, "send", recorded)
    refusals = ({}, {"sku": "SOLDOUT-1"}, {"payment_method": "pm_card_declined"}, {"postal_code": "00000"})
    for workflow, bus in KINDS:
        for changes in refusals:
            world.place(workflow=workflow, event_bus=bus, **changes)
        assert world.cancel(world.place(workflow=workflow, event_bus=bus)) == 202
        world.place(workflow=workflow, event_bus=bus)
        world.pass_time(25)  # before it went anywhere: it is resent
        world.settle()
    for service in SERVICES:
        found = allowed(service)
        ways = {f"sqs:SendMessage {queue}" for queue in found["sqs:SendMessage"] if not queue.endswith("-dlq")}
        ways |= {a for a in found if a in ("sns:Publish", "events:PutEvents", *RESOURCELESS, "states:StartExecution")}
        by_operators = {f"sqs:SendMessage {service}", "sqs:SendMessage order"}  # a redrive, and the note on it
        guards = {"states:StartExecution"} if service == "orchestrator" else set()  # past the outbox
        assert used[service] <= ways, service
        assert ways - used[service] <= by_operators | guards, service
