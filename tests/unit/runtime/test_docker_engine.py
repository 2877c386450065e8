"""Whether there is a Docker Engine to start containers on: what is wrong is said soon, with the way without Docker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.containers import docker
from runtime.problems import RuntimeProblem

Script = Callable[[str], None]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Makes a `docker` command of these lines of shell."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("DOCKER_HOST", raising=False)

    def make(lines: str) -> None:
        file = tmp_path / "docker"
        file.write_text(f"#!/bin/sh\n{lines}\n")
        file.chmod(0o755)

    return make


def told() -> str:
    with pytest.raises(RuntimeProblem) as caught:
        docker.check_engine()
    assert docker.engine() is None
    assert "ORDERFLOW_RUNTIME=embedded make up" in caught.value.way_out
    return caught.value.what


def test_one_of_this_machine(command: Script) -> None:
    command('case "$1" in context) echo unix:///var/run/docker.sock;; version) echo 27.1;; esac')
    assert docker.check_engine() == "27.1"


@pytest.mark.parametrize("hangs", ["exec sleep 300", "sleep 300", "trap '' TERM INT; while true; do sleep 300; done"])
def test_a_command_that_hangs(command: Script, monkeypatch: pytest.MonkeyPatch, hangs: str) -> None:
    """By itself, or what it started; and if it takes no other signal."""
    assert docker._CONTEXT_SECONDS + docker._ENGINE_SECONDS < 5
    monkeypatch.setattr(docker, "_CONTEXT_SECONDS", 0.1)
    monkeypatch.setattr(docker, "_ENGINE_SECONDS", 0.2)
    command(hangs)
    assert "no answer within 0.2 s" in told()


@pytest.mark.parametrize("host", ["ssh://me@build.example", "tcp://10.0.0.7:2376"])
@pytest.mark.parametrize("by", ["DOCKER_HOST", "context"])
def test_an_engine_of_another_machine(command: Script, monkeypatch: pytest.MonkeyPatch, host: str, by: str) -> None:
    """Its containers' ports are there."""
    command(f'case "$1" in context) echo {host};; version) echo 27.1;; esac')
    if by == "DOCKER_HOST":
        monkeypatch.setenv("DOCKER_HOST", host)
    assert f"on another machine ({host})" in told()


@pytest.mark.parametrize("host", ["unix:///run/user/1000/docker.sock", "tcp://127.0.0.1:2375", "tcp://localhost:2375"])
def test_a_host_that_is_this_machine(command: Script, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    command('case "$1" in version) echo 27.1;; esac')
    assert docker.check_engine() == "27.1"


def test_an_engine_that_is_not_started(command: Script) -> None:
    """In Docker's words."""
    command('echo "Cannot connect to the Docker daemon" >&2; exit 1')
    assert "Cannot connect to the Docker daemon" in told()


def test_compose_is_missing(command: Script) -> None:
    command('case "$1" in context) echo unix:///x;; version) echo 27.1;; *) exit 1;; esac')
    assert "`docker compose` (version 2) is missing" in told()
