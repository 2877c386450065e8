"""FAULTS row 21: the mode is switched with orders in flight; each order ends in the workflow in which it began."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from orderflow.contracts import EventBus, Workflow
from runtime import EmbeddedRuntime
from tests.support import parts
from tests.support.load import Load, sizes
from tests.support.system import KINDS, System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("faults-system"), pytest.mark.row(21)]


def switched(system: System, kind: tuple[Workflow, EventBus]) -> EmbeddedRuntime:
    """The same system with another mode."""
    settings = dict(system.runtime.plan.settings) | {name: str(port) for name, port in system.ports.items()}
    settings |= {"WORKFLOW_MODE": kind[0].value, "EVENT_BUS": kind[1].value}
    return EmbeddedRuntime(system.runtime.home.path, settings)


@pytest.fixture
def switching(system: System) -> Iterator[System]:
    yield system
    system.runtime.up()


ONE_EACH = [kind for number, kind in enumerate(KINDS) if number % 4 in (0, 3)]
"""Every workflow once, over one bus and the other in turn; the first is what the system is set to anyway."""
ROUND_TRIP = [*KINDS[1::2], *KINDS[::2]]
"""All of them; each switch changes the workflow."""


@pytest.mark.parametrize(("orders", "least", "trip"), sizes((24, 12, ONE_EACH), (225, 200, ROUND_TRIP)))
def test_the_mode_is_switched_with_orders_in_flight(
    switching: System,
    seed: int,
    orders: int,
    least: int,
    trip: list[tuple[Workflow, EventBus]],
    measured: Callable[..., None],
) -> None:
    """Switches from one mode to the next by `up` with another WORKFLOW_MODE and EVENT_BUS, as a user does. `up`
    restarts payment. When as many new orders come, no earlier ones are left but these; some of them end without
    payment."""
    system = switching
    kinds: dict[str, tuple[Workflow, EventBus]] = {}
    plan = system.runtime.plan
    set_to = (Workflow(plan.workflow), EventBus(plan.event_bus))
    in_flight: list[int] = []
    for kind in trip:
        if kind != set_to:
            assert switched(system, kind).up(), "`up` tells what it changed"
            set_to = kind
        until(lambda: system.open_orders() <= orders, what=lambda: f"{system.open_orders()} are still open")
        # With payment stopped, every order is in flight.
        parts.stop(system.runtime, "payment")
        with Load(system, KINDS, rate=40, total=orders, seed=seed, default_kind=True) as load:
            taken = load.finish()
        assert set(load.kind_of.values()) == {kind}, "orders use the mode that is set"
        kinds |= load.kind_of
        in_flight.append(system.open_orders())
        assert in_flight[-1] >= least, "they are in flight at the next switch"
        assert len(taken) == orders
    system.runtime.up()
    last = time.monotonic()
    system.until_terminal(*kinds)
    measured(modes=len(trip), orders=len(kinds), fewest_in_flight=min(in_flight), terminal_s=time.monotonic() - last)
    ids = list(kinds)
    stored = system.sql("order", "SELECT id::text, workflow, event_bus FROM orders WHERE id = ANY(%s::uuid[])", ids)
    assert {i: (Workflow(w), EventBus(b)) for i, w, b in stored} == kinds, "each ends in its own workflow"
    directed = {i for (i,) in system.sql("orchestrator", "SELECT order_id::text FROM sagas") if i in kinds}
    for order_id, (workflow, _) in kinds.items():
        if workflow is Workflow.CHOREOGRAPHY:
            assert order_id not in directed
        elif workflow in (Workflow.ORCHESTRATION, Workflow.HYBRID):
            assert order_id in directed
    system.check(acknowledged=list(kinds))
    system.no_dead_letters()
