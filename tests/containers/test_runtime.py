"""The container runtime's other verbs, and what it says when it can't."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from orderflow.routing import SERVICES
from runtime import ContainerRuntime, EmbeddedRuntime, RuntimeProblem, runtime
from runtime.containers import docker
from tests.support.containers import ContainerSystem
from tests.support.ports import free_ports
from tests.support.system import until


def test_status_has_every_part(system: ContainerSystem) -> None:
    """With the ports that were asked for."""
    parts = system.runtime.status()
    assert [part.name for part in parts] == ["postgres", "localstack", "jaeger", *SERVICES]
    assert {part.state for part in parts} == {"ready"}
    assert {part.port for part in parts} <= set(system.ports.values())
    assert all(part.pid and part.uptime > 0 for part in parts)


def test_settings_are_read_off_the_containers(system: ContainerSystem, settings: dict[str, str]) -> None:
    """So a system that was started by `docker compose up` is known, too."""
    stranger = ContainerRuntime(settings={"COMPOSE_PROJECT_NAME": settings["COMPOSE_PROJECT_NAME"]})
    assert stranger.running
    assert stranger.running_plan().visible() == system.runtime.plan.visible()


def test_logs_are_each_parts_own(system: ContainerSystem) -> None:
    """And grow."""
    found = {part: system.runtime.logs(part) for part in ("order", "payment", "localstack")}
    assert json.loads(found["payment"].splitlines()[0])["service"] == "payment"
    assert "stack orderflow: " in found["localstack"]
    order_id = system.place()
    system.until_terminal(order_id)
    with psycopg.connect(system.databases["order"]) as connection, pytest.raises(psycopg.Error):
        connection.execute("SELECT a_mistake")
    until(lambda: "a_mistake" in system.runtime.logs("postgres"))
    assert system.runtime.logs("order").startswith(found["order"])


def test_a_role_reaches_its_own_database_only(system: ContainerSystem) -> None:
    """Services share no table, and can't."""
    url = system.databases["payment"]
    psycopg.connect(url).close()
    for other in ("orderflow_order", "orderflow_providers", "postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(url.removesuffix("orderflow_payment") + other)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(url.replace(":payment@", ":wrong@"))


def test_a_taken_port_is_named_and_nothing_is_left(
    system: ContainerSystem, settings: dict[str, str], tmp_path: Path
) -> None:
    """With its variable and its process."""
    other = ContainerRuntime(tmp_path / "home", {**free_ports(), "SHIPPING_PORT": settings["SHIPPING_PORT"]})
    with pytest.raises(RuntimeProblem, match=rf"Port {settings['SHIPPING_PORT']} \(SHIPPING_PORT\) is taken by"):
        other.up()
    assert other.containers() == []


def test_a_service_that_cannot_start_is_told(system: ContainerSystem) -> None:
    """With the last lines of its log; a system that runs stays up, and the next `up` puts it right."""
    runtime = system.runtime
    broken = ContainerRuntime(runtime.home.path, runtime._settings, {"shipping": {"VISIBILITY": "a lot"}})
    with pytest.raises(RuntimeProblem, match="shipping ends as soon as it is started") as problem:
        broken.up()
    assert "VISIBILITY" in problem.value.what
    assert runtime.up() == {}
    assert system.all_ready()


def test_the_command_line_in_a_container(system: ContainerSystem) -> None:
    """`docker compose run --rm cli …` reaches the services by their names, without Python on the host."""
    compose = system.runtime.compose()
    built = compose.run("--profile", "cli", "--progress", "plain", "build", "cli")
    assert built.returncode == 0, built.stderr[-2000:]
    run = ("--progress", "quiet", "run", "--rm", "--no-TTY", "cli")
    done = compose.run(*run, "status", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {part["state"] for part in found["parts"]} == {"ready"}
    placed = compose.run(
        "--progress", "quiet", "run", "--rm", "--no-TTY", "cli", "order", "place", "--sku", "BOOK-1", "--json"
    )
    assert placed.returncode == 0, placed.stderr
    assert system.until_terminal(json.loads(placed.stdout)["id"]) == ["CONFIRMED"]


def test_containers_are_taken_where_an_engine_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And embedded where none does; ORDERFLOW_RUNTIME forces one."""
    monkeypatch.setenv("ORDERFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ORDERFLOW_RUNTIME", raising=False)
    monkeypatch.setattr(docker, "engine", lambda: "28.0")
    assert isinstance(runtime(), ContainerRuntime)
    monkeypatch.setattr(docker, "engine", lambda: None)
    assert isinstance(runtime(), EmbeddedRuntime)
    monkeypatch.setenv("ORDERFLOW_RUNTIME", "containers")
    assert isinstance(runtime(), ContainerRuntime)
    monkeypatch.setenv("ORDERFLOW_RUNTIME", "kubernetes")
    with pytest.raises(RuntimeProblem, match="embedded, containers"):
        runtime()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [("PATH", "/nowhere", "no `docker` command"), ("DOCKER_HOST", "unix:///nowhere.sock", "No Docker Engine answers")],
)
def test_without_an_engine_the_way_out_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, said: str
) -> None:
    """It names what is missing, and the run without Docker."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(RuntimeProblem, match=said) as problem:
        ContainerRuntime(tmp_path / "home").up()
    assert "ORDERFLOW_RUNTIME=embedded" in problem.value.way_out
