"""What `up` tells Docker, and what it makes of the answers. A script stands in for `docker`."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from runtime import ContainerRuntime, RuntimeProblem
from runtime.containers import start
from runtime.plan import PORTS
from tests.support.docker_command import DOWN, PARTS, DockerCommand, compose, whole

BUILD = compose("--progress", "plain", "build")
UP = compose("--progress", "plain", "up", "--detach", "--no-build", "--remove-orphans")


def problem(runtime: ContainerRuntime) -> RuntimeProblem:
    """Why the start failed."""
    with pytest.raises(RuntimeProblem) as caught:
        runtime.up()
    return caught.value


def test_the_first_start(docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str]) -> None:
    """Builds, then starts; every part is reported when it is ready. Nothing has changed, as nothing ran."""
    docker.makes(*whole(settings))
    told: list[tuple[str, str]] = []
    assert runtime.up(lambda part, state, detail: told.append((part, state))) == {}
    assert docker.calls("build", "up", "down") == [BUILD, UP]
    assert told[:2] == [("images", "building"), ("images", "ready")]
    assert {part for part, state in told if state == "ready"} == {"images", *PARTS}


def test_containers_are_found_by_their_project(docker: DockerCommand, runtime: ContainerRuntime) -> None:
    """Those of others are never looked at; nor are those of `docker compose run`."""
    assert runtime.containers() == []
    label = "label=com.docker.compose"
    assert docker.calls() == [
        [
            "ps",
            "--all",
            "--quiet",
            "--no-trunc",
            "--filter",
            f"{label}.project=shop",
            "--filter",
            f"{label}.oneoff=False",
        ]
    ]


def test_docker_is_given_the_settings_and_little_else(
    docker: DockerCommand, tmp_path: Path, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No AWS profile of the caller's, no Python variable; passwords and a tag by their names."""
    for name in ("AWS_PROFILE", "PYTHONPATH", "WORKFLOW_MODE"):
        monkeypatch.setenv(name, "the-callers")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    docker.makes(*whole(settings))
    own = {"WORKFLOW_MODE": "hybrid", "PAYMENT_DATABASE_PASSWORD": "p", "ORDERFLOW_IMAGE_TAG": "t", "PAGER": "less"}
    ContainerRuntime(tmp_path / "home", settings | own).up()
    for verb in ("build", "up"):
        given = docker.environment(verb)
        assert {name: given[name] for name in PORTS} == {name: settings[name] for name in PORTS}
        assert given["WORKFLOW_MODE"] == "hybrid"
        assert given["EVENT_BUS"] == "sns"
        assert (given["PAYMENT_DATABASE_PASSWORD"], given["ORDERFLOW_IMAGE_TAG"]) == ("p", "t")
        assert given["HTTPS_PROXY"] == "http://proxy"
        assert not {"AWS_PROFILE", "PYTHONPATH", "PAGER"} & given.keys()


def test_changed_settings_are_told(docker: DockerCommand, tmp_path: Path, settings: dict[str, str]) -> None:
    """Old and new, read off the containers; the ports that they hold are not taken by others."""
    docker.there(*whole(settings))
    docker.makes(*whole(settings, "orchestration"))
    runtime = ContainerRuntime(tmp_path / "home", settings | {"WORKFLOW_MODE": "orchestration"})
    assert runtime.running_plan().workflow == "choreography"
    assert runtime.up() == {"WORKFLOW_MODE": ("choreography", "orchestration")}
    assert docker.calls("build", "up", "down") == [BUILD, UP]
    assert runtime.running_plan().workflow == "orchestration"


def test_a_setting_of_one_service(docker: DockerCommand, tmp_path: Path, settings: dict[str, str]) -> None:
    """Comes from a second file."""
    docker.makes(*whole(settings))
    runtime = ContainerRuntime(tmp_path / "home", settings, {"shipping": {"LOG_LEVEL": "DEBUG"}})
    runtime.up()
    path = runtime.home.run / "compose.override.json"
    [up] = docker.calls("up")
    assert up[up.index(str(path)) - 1] == "--file"
    assert json.loads(path.read_text()) == {"services": {"shipping": {"environment": {"LOG_LEVEL": "DEBUG"}}}}


def test_images_that_cannot_be_built(docker: DockerCommand, runtime: ContainerRuntime) -> None:
    """With the end of the log, its place, and what to do. What had been started is taken back."""
    docker.fails("build", "step 1\npip: no such package\n")
    found = problem(runtime)
    assert "The images couldn't be built.\n  step 1\n  pip: no such package" in found.what
    assert str(runtime.home.log("build")) in found.way_out
    assert "What had been started is stopped again" in found.way_out
    assert docker.calls("build", "up", "down") == [BUILD, DOWN]


def test_a_running_system_stays_up(docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str]) -> None:
    """Whatever keeps the change from it."""
    docker.there(*whole(settings))
    docker.fails("build", "no\n")
    assert "stopped again" not in problem(runtime).way_out
    assert docker.calls("build", "up", "down") == [BUILD]


def test_interrupted(docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str]) -> None:
    """Ctrl-C while it starts: nothing is left of it."""

    def report(part: str, state: str, detail: str) -> None:
        if part == "postgres":
            raise KeyboardInterrupt

    docker.makes(*whole(settings))
    with pytest.raises(KeyboardInterrupt):
        runtime.up(report)
    assert docker.calls("build", "down") == [BUILD, DOWN]


def test_a_port_that_is_taken(docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str]) -> None:
    """By whom, before anything is built."""
    with socket.create_server(("127.0.0.1", int(settings["ORDER_PORT"]))):
        found = problem(runtime)
    assert f"Port {settings['ORDER_PORT']} (ORDER_PORT) is taken by" in found.what
    assert f"(pid {os.getpid()})" in found.what
    assert docker.calls("build", "up", "down") == []


@pytest.mark.parametrize(
    "said",
    [
        "Error response from daemon: driver failed programming external connectivity: Bind for 127.0.0.1:{} failed",
        "Error: failed to bind host port: listen tcp4 127.0.0.1:{}: bind: address already in use",
    ],
)
def test_a_port_that_docker_finds_taken(
    docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str], said: str
) -> None:
    """Meanwhile, or on the engine's own machine."""
    docker.fails("up", said.format(settings["PAYMENT_PORT"]))
    found = problem(runtime)
    assert f"Port {settings['PAYMENT_PORT']} (PAYMENT_PORT) is taken." in found.what
    assert "PAYMENT_PORT=… make up" in found.way_out
    assert docker.calls("down") == [DOWN]


@pytest.mark.parametrize("state", ["is unhealthy", "exited (1)"])
def test_a_part_that_others_wait_for_in_vain(docker: DockerCommand, runtime: ContainerRuntime, state: str) -> None:
    """With the last that it said."""
    docker.fails("up", f"dependency failed to start: container shop-localstack-1 {state}\n")
    docker.answers("logs", "no room for the index\n")
    found = problem(runtime)
    assert found.what.startswith(f"localstack {state}")
    assert "  no room for the index" in found.what
    assert "orderflow logs localstack" in found.way_out
    tail = compose("logs", "--no-color", "--no-log-prefix", "--tail", "8", "localstack")
    assert docker.calls("logs") == [tail]


def test_any_other_failure_in_dockers_words(docker: DockerCommand, runtime: ContainerRuntime) -> None:
    docker.fails("up", "the engine is on fire\n")
    assert "the engine is on fire" in problem(runtime).what


def test_a_service_that_ends_as_soon_as_it_is_started(
    docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str]
) -> None:
    """After two more restarts than it had before."""
    docker.there(*whole(settings, shipping={"restarts": 5}))
    docker.makes(*whole(settings, shipping={"restarts": 8, "status": "restarting"}))
    docker.answers("logs", "VISIBILITY=a lot\n")
    found = problem(runtime)
    assert found.what == "shipping ends as soon as it is started.\n  VISIBILITY=a lot"
    assert "orderflow logs shipping" in found.way_out


def test_a_part_that_does_not_get_ready(
    docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is named, with the last that it said."""
    monkeypatch.setattr(start, "READY_SECONDS", 0.0)
    docker.there(*whole(settings, jaeger={"health": "starting"}))
    docker.answers("logs", "still loading\n")
    found = problem(runtime)
    assert found.what.endswith("s: jaeger.\njaeger:\n  still loading")


def test_containers_of_another_clone(
    docker: DockerCommand, runtime: ContainerRuntime, settings: dict[str, str]
) -> None:
    """Are left alone."""
    docker.there(*whole(settings, order={"folder": "/elsewhere"}))
    found = problem(runtime)
    assert "are of another clone: /elsewhere" in found.what
    assert "COMPOSE_PROJECT_NAME=other" in found.way_out
    assert docker.calls("build", "up", "down") == []
