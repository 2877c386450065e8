"""Another mode, with orders in flight: each finishes in its own."""

from __future__ import annotations

from orderflow.contracts import EventBus, Workflow
from runtime import ContainerRuntime
from tests.support.bodies import order_body
from tests.support.containers import ContainerSystem
from tests.support.system import KINDS

START = (Workflow.CHOREOGRAPHY, EventBus.SNS)


def ids(system: ContainerSystem, *parts: str) -> dict[str, str]:
    return {c.service: c.id for c in system.runtime.containers() if not parts or c.service in parts}


def test_up_again_changes_nothing(system: ContainerSystem) -> None:
    """Same settings: the same containers."""
    before = ids(system)
    assert system.runtime.up() == {}
    assert ids(system) == before


def test_up_in_another_mode_with_orders_in_flight(system: ContainerSystem, settings: dict[str, str]) -> None:
    """`up` tells old and new and makes the services anew, not LocalStack and PostgreSQL. Orders in flight end as they
    were placed; new ones take the new mode."""
    placed = {system.place(kind): kind for kind in KINDS for _ in range(3)}
    before = ids(system)
    switched = ContainerRuntime(
        system.runtime.home.path, settings | {"WORKFLOW_MODE": "orchestration", "EVENT_BUS": "eventbridge"}
    )
    assert switched.up() == {
        "WORKFLOW_MODE": (START[0].value, "orchestration"), "EVENT_BUS": (START[1].value, "eventbridge"),
    }  # fmt: skip
    after = ids(system)
    assert {name for name in before if before[name] == after[name]} == {"localstack", "postgres", "jaeger"}
    assert switched.running_plan().workflow == "orchestration"
    new = system.post(order_body()).json()
    assert (new["workflow"], new["event_bus"]) == ("orchestration", "eventbridge")
    assert set(system.until_terminal(*placed, new["id"])) == {"CONFIRMED"}
    for order_id, kind in placed.items():
        order = system.order(order_id)
        assert (order["workflow"], order["event_bus"]) == (kind[0].value, kind[1].value)
    system.check(acknowledged=list(placed))


def test_down_and_up_with_orders_in_flight(system: ContainerSystem) -> None:
    """Everything is removed but the data, LocalStack's queues too; then all continues where it was."""
    placed = {system.place(kind): kind for kind in KINDS for _ in range(2)}
    assert system.runtime.down()
    assert system.runtime.containers() == []
    assert {part.state for part in system.runtime.status()} == {"stopped"}
    assert not system.runtime.down()
    assert system.runtime.up() == {}
    assert set(system.until_terminal(*placed)) == {"CONFIRMED"}
    system.check(acknowledged=list(placed))
