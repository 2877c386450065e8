"""Orders of one workflow and bus: what is lost on their way, and the time until they end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from orderflow.broker import Parcel, SendFailure
from orderflow.contracts import (
    EventBus,
    Message,
    Workflow,
    name_of,
)
from orderflow.routing import COORDINATOR, Channel
from orderflow.saga import STEPS
from tests.support.aws_like.rules import Rules
from tests.support.load import each_kind
from tests.support.oracle import check
from tests.support.system import KINDS, kind_id
from tests.support.world import World, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.row(18)]


Kind = tuple[Workflow, EventBus]


every_kind = pytest.mark.parametrize("kind", each_kind())


coordinated_elsewhere = pytest.mark.parametrize("kind", [k for k in KINDS if COORDINATOR[k[0]] != "order"], ids=kind_id)


every_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database, Rules(1)) as made:
        yield made


@contextmanager
def losing(world: World, *messages: type[Message]) -> Iterator[Counter[str]]:
    """The broker loses these on their way, each time; how often, by name. One that goes to it again, because a call
    failed that it was in, is lost once."""
    lost: Counter[str] = Counter()
    seen: set[tuple[str, int]] = set()
    names = {name_of(message) for message in messages}
    send = world.broker.send

    def lose(channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        for envelope in (parcel.envelope for parcel in batch if parcel.envelope.name in names):
            lost[envelope.name] += (envelope.id, envelope.resend) not in seen
            seen.add((envelope.id, envelope.resend))
        rest = [parcel for parcel in batch if parcel.envelope.name not in names]
        return send(channel, target, rest) if rest else ()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.broker, "send", lose)
        yield lost


def place(world: World, kind: Kind, **changes: Any) -> str:
    return world.place(**changes, workflow=kind[0], event_bus=kind[1])


def wait(world: World, seconds: float) -> None:
    """Time passes, the owners look, and all that this causes happens."""
    world.pass_time(seconds)
    world.settle()


def ended(world: World, order_id: str) -> str:
    """The order's status in the end. Where a call of AWS's has failed, that takes its time."""
    for _ in range(60):
        if not world.execute("order", "SELECT 1 FROM orders WHERE id = %s AND open", [order_id]):
            break
        wait(world, 10)
    return world.status(order_id)


def an_operator_ends(world: World, order_id: str) -> None:
    assert retry(world, order_id) == 202
    world.settle()
    wait(world, 0)
    assert ended(world, order_id) == "CANCELLED"
    check(world.urls, acknowledged=[order_id])


def retry(world: World, order_id: str) -> int:
    """An operator's; the status code."""
    path, asked = f"/orders/{order_id}/retry", {"by": "ada", "why": "it answers again"}
    return int(world.http("order").post(path, json=asked).status_code)
