"""Containers that die with orders in flight: nothing is lost, nothing happens twice."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from orderflow.routing import SERVICES
from tests.support import container_parts
from tests.support.containers import ContainerSystem
from tests.support.system import KINDS, until

OUTCOMES: tuple[tuple[dict[str, str], str], ...] = (
    ({}, "CONFIRMED"),
    ({"payment_method": "pm_card_declined"}, "CANCELLED"),
    ({"postal_code": "00000"}, "CANCELLED"),
)


def place(system: ContainerSystem) -> dict[str, str]:
    """Orders of every kind and outcome → how they must end."""
    return {system.place(kind, **changes): ends for kind in KINDS for changes, ends in OUTCOMES}


def settle(system: ContainerSystem, placed: dict[str, str]) -> None:
    """All end as they must, and the oracle has no complaint."""
    assert dict(zip(placed, system.until_terminal(*placed), strict=True)) == placed
    system.check(acknowledged=list(placed))


@pytest.mark.parametrize("part", [*SERVICES, "localstack", "postgres"])
def test_killed_with_orders_in_flight(system: ContainerSystem, part: str) -> None:
    """`docker kill`, a while away, `docker start`. A LocalStack that comes back empty gets its stack by the hook."""
    placed = place(system)
    assert system.open_orders(), "the kill came too late to be one"
    container_parts.kill(system.runtime, part)
    until(lambda: {p.name: p.state for p in system.runtime.status()}[part] == "stopped")
    system.restart(part)
    settle(system, placed)


def crashed(system: ContainerSystem, part: str) -> Callable[[], bool]:
    """Kills a part's first process behind Docker's back; gives whether Docker has started it again."""
    try:
        pid = container_parts.crash(system.runtime, part)
    except (PermissionError, ProcessLookupError) as error:
        pytest.skip(f"the engine's processes can't be killed from here: {error}")
    return lambda: container_parts.pid(system.runtime, part) not in (0, pid)


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="killing a container's process takes root")
def test_what_crashes_is_started_again(system: ContainerSystem) -> None:
    """By its restart policy, without anybody's help, services and infrastructure alike."""
    placed = place(system)
    back = [crashed(system, part) for part in ("payment", "orchestrator", "jaeger")]
    for came_back in back:
        until(came_back)
    system.until_ready()
    settle(system, placed)


def test_paused_is_not_dead(system: ContainerSystem) -> None:
    """A service that stands still for a while neither loses nor repeats anything."""
    placed = place(system)
    with container_parts.paused(system.runtime, "shipping"):
        assert {part.name: part.state for part in system.runtime.status()}["shipping"] == "unready"
        until(lambda: system.order(next(iter(placed)))["status"] != "PLACED")
    settle(system, placed)
