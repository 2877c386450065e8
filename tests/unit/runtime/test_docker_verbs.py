"""What `down`, `status` and `logs` tell Docker, and what they make of the answers. A script stands in for `docker`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime import ContainerRuntime, RuntimeProblem
from runtime.containers import status
from tests.support import container_parts
from tests.support.docker_command import DOWN, PARTS, DockerCommand, compose, container, whole


def test_down_and_reset(docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str]) -> None:
    """`reset` takes the volume, too."""
    docker.there(*whole(settings))
    assert runtime.down()
    assert not runtime.down()
    runtime.reset()
    assert docker.calls("down") == [DOWN, DOWN, [*DOWN, "--volumes"]]


def test_down_that_fails(docker: DockerCommand, runtime: ContainerRuntime) -> None:
    docker.fails("down", "permission denied")
    with pytest.raises(RuntimeProblem, match="Stopping failed: permission denied"):
        runtime.down()


def test_down_with_settings_that_are_wrong(docker: DockerCommand, tmp_path: Path) -> None:
    """Stopping needs none."""
    ContainerRuntime(tmp_path / "home", {"COMPOSE_PROJECT_NAME": "shop", "WORKFLOW_MODE": "pigeons"}).down()
    assert docker.calls("down") == [DOWN]


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, "ready"), ({"health": ""}, "ready"), ({"health": "starting"}, "starting"),
        ({"health": "unhealthy"}, "unready"), ({"status": "paused"}, "unready"), ({"status": "exited"}, "stopped"),
        ({"status": "created"}, "starting"), ({"status": "restarting"}, "restarting"), ({"status": "dead"}, "failed"),
        ({"status": "removing"}, "stopped"),
    ],
)  # fmt: skip
def test_the_state_of_a_part(
    docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str], facts: dict[str, str], state: str
) -> None:
    docker.there(*whole(settings, jaeger=facts))
    [part] = [part for part in runtime.status() if part.name == "jaeger"]
    assert part.state == state
    assert (part.pid is not None) == (facts.get("status", "running") == "running") == (part.uptime > 0)
    assert part.port == int(settings["JAEGER_PORT"])


def test_status_lists_what_should_be_there_and_the_workers(
    docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str]
) -> None:
    docker.there(container("payment-worker", number=2, health=""), container("cli"))
    found = runtime.status()
    assert [part.name for part in found] == [*PARTS, "payment-worker-2"]
    assert {part.state for part in found[:-1]} == {"stopped"}
    assert (found[-1].state, found[-1].port, found[-1].url) == ("ready", 0, "")
    assert runtime.running
    docker.there()
    assert not runtime.running


def test_a_service_is_ready_when_it_says_so(
    docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker asks it every few seconds only."""
    monkeypatch.setattr(status, "answers", lambda url: url != f"http://127.0.0.1:{settings['ORDER_PORT']}/readyz")
    docker.there(*whole(settings))
    assert [part.name for part in runtime.status() if part.state != "ready"] == ["order"]


LINES = """\
payment-1         | 2026-01-02T03:04:05.000000001Z one
payment-1         | 2026-01-02T03:04:05.000000002Z two
payment-worker-2  | 2026-01-02T03:04:06.000000000Z of a worker
"""


def test_logs_are_asked_for_in_steps(
    docker: DockerCommand, runtime: ContainerRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line is given once, to its part; Docker is asked for what came since."""
    monkeypatch.setattr("runtime.containers.logs._FRESH_SECONDS", -1.0)
    monkeypatch.setattr("runtime.containers.logs._FOLLOW_SECONDS", -1.0)
    docker.answers("logs", LINES)
    more = runtime.follow("payment")
    every = runtime.follow("payment", from_start=True)
    assert runtime.logs("payment") == "one\ntwo\n"
    assert runtime.logs("payment-worker-2") == "of a worker\n"
    assert more() == ""
    docker.answers("logs", LINES + "payment-1  | 2026-01-02T03:04:06.100000000Z three\n")
    assert more() == "three\n"
    assert every() == "one\ntwo\nthree\n"
    assert docker.calls("logs")[0] == compose("logs", "--no-color", "--timestamps")
    assert docker.calls("logs")[-1] == compose("logs", "--no-color", "--timestamps", "--since", "2026-01-02T03:04:06Z")


def test_what_tests_tell_docker_of_single_parts(
    docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str]
) -> None:
    """The verbs of `tests.support.container_parts`."""
    docker.there(*whole(settings), container("payment-worker"), container("payment-worker", number=2))
    docker.forget()
    container_parts.kill(runtime, "payment")
    container_parts.stop(runtime, "payment-worker")
    container_parts.start(runtime, "payment-worker-2")
    with container_parts.paused(runtime, "shipping"):
        pass
    container_parts.scale(runtime, "payment-worker", 0)
    scaled = ["--no-build", "--no-recreate", "--no-deps", "--scale", "payment-worker=0", "payment-worker"]
    assert docker.calls("kill", "stop", "start", "pause", "unpause", "up") == [
        ["kill", "--signal", "9", "id-payment-1"],
        ["stop", "id-payment-worker-1", "id-payment-worker-2"],
        ["start", "id-payment-worker-2"],
        ["pause", "id-shipping-1"],
        ["unpause", "id-shipping-1"],
        compose("up", "--detach", *scaled),
    ]
    assert container_parts.pid(runtime, "payment") == os.getpid()
    docker.there()
    with pytest.raises(LookupError):
        container_parts.kill(runtime, "payment")
