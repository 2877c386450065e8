"""Ten orders whose messages wait for one service, of which one has its trouble there."""

from __future__ import annotations

from typing import Any, Final

import pytest

from orderflow.contracts import Workflow
from orderflow.messaging import consumer
from tests.support.world import World

pytestmark = pytest.mark.row(29)


@pytest.fixture(autouse=True)
def _nothing_failed_yet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is given back stays away until it is redelivered; a delay may be none."""
    for name in world.services:
        world.execute(name, "DELETE FROM failures")
    monkeypatch.setattr(consumer, "_delay", lambda receive_count, soon=False: 1)


MESSAGES: Final = 10


def bring(world: World, service: str, workflow: Workflow, **changes: Any) -> list[str]:
    """Ten orders, each with a message that waits for `service`, and nothing else."""
    world.settle()
    orders = [world.place(workflow=workflow, **changes) for _ in range(MESSAGES)]
    for _ in range(20):
        for name in world.services:
            world.publish(name)
            if name != service:
                while world.deliver(name):
                    pass
        if len(world.broker.queues[service].waiting) >= MESSAGES:
            return orders
    raise AssertionError(f"nothing comes to {service}")
