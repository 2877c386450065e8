"""The embedded runtime with changed settings, and its way down: whether it is stopped on purpose, after a crash, or
because a start failed, nothing is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psycopg
import pytest

from runtime import EmbeddedRuntime, RuntimeProblem
from runtime.embedded import leftovers
from runtime.plan import changes
from tests.support.begun import begin
from tests.support.engine import provider
from tests.support.ports import free_ports
from tests.support.system import System, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("runtime"),
    pytest.mark.skipif(provider() != "embedded", reason="another runtime"),
]


@pytest.fixture
def up(own_system: System) -> EmbeddedRuntime:
    """The runtime of a system that is up, with whatever settings."""
    if not own_system.runtime.running:
        own_system.runtime.up()
    return own_system.runtime


@pytest.fixture
def stopped(own_system: System) -> EmbeddedRuntime:
    """The runtime of a system that is down."""
    own_system.runtime.down()
    return own_system.runtime


def test_a_taken_port_stops_the_start_and_nothing_is_left(as_set: EmbeddedRuntime, tmp_path: Path) -> None:
    """The message names port, variable and process."""
    taken = as_set.plan.port("shipping")
    other = EmbeddedRuntime(tmp_path / "other", {**free_ports(), "SHIPPING_PORT": str(taken)})
    with pytest.raises(RuntimeProblem, match=rf"Port {taken} \(SHIPPING_PORT\) is taken by"):
        other.up()
    assert not other.running
    assert leftovers.find(other.home) == []
    other.reset()


def test_a_changed_setting_restarts_the_services_that_it_concerns_only(as_set: EmbeddedRuntime) -> None:
    """`up` on a running system shows old and new values; LocalStack and PostgreSQL keep running. A setting of one
    service disturbs no other."""
    names = [part.name for part in as_set.status() if part.name != "jaeger"]
    before = {name: as_set.pid(name) for name in names}
    settings = {**as_set._settings, "WORKFLOW_MODE": "orchestration"}
    switched = EmbeddedRuntime(as_set.home.path, settings)
    assert switched.up() == {"WORKFLOW_MODE": ("choreography", "orchestration")}
    after = {name: as_set.pid(name) for name in names}
    assert {name for name in names if before[name] == after[name]} == {"localstack", "postgres"}
    assert switched.running_plan().workflow == "orchestration"
    EmbeddedRuntime(as_set.home.path, settings, {"shipping": {"LOG_LEVEL": "DEBUG"}}).up()
    assert {name for name in names if after[name] != as_set.pid(name)} == {"shipping"}
    assert changes(as_set._applied(), as_set.plan.visible()) == {"WORKFLOW_MODE": ("orchestration", "choreography")}


def test_down_leaves_nothing_and_keeps_the_data(up: EmbeddedRuntime) -> None:
    """Also a second time; `status` then says stopped."""
    url = up.env("order")["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept_by_down (id int)")
    assert up.down()
    assert leftovers.find(up.home) == []
    assert {part.state for part in up.status()} == {"stopped"}
    assert not up.down()
    begin(up)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE kept_by_down")
    assert up.down()


def test_down_without_a_supervisor(stopped: EmbeddedRuntime) -> None:
    """Orphans are found by their environment and ended."""
    begin(stopped, "localstack", "order", "payment")
    until(lambda: all(stopped.pid(name) for name in ("localstack", "order", "payment")))
    left = leftovers.find(stopped.home, stopped._postgres().data)
    os.kill(left[0].pid, signal.SIGKILL)
    until(lambda: not stopped.running)
    assert len(leftovers.find(stopped.home)) >= 2
    assert stopped.down()
    assert leftovers.find(stopped.home, stopped._postgres().data) == []


def test_a_service_that_cannot_start_is_reported_and_rolled_back(stopped: EmbeddedRuntime) -> None:
    """With the last lines of its log; every other part is stopped again."""
    broken = EmbeddedRuntime(stopped.home.path, stopped._settings, {"payment": {"VISIBILITY": "a lot"}})
    with pytest.raises(RuntimeProblem, match="payment ends as soon as it is started") as problem:
        broken.up()
    assert "VISIBILITY" in problem.value.what
    assert leftovers.find(broken.home) == []
