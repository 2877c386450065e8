"""A `docker` command that answers from files, and a container runtime that tells it what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import ContainerRuntime
from runtime.containers import start, status
from tests.support.docker_command import DockerCommand
from tests.support.ports import free_ports


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DockerCommand:
    """The command; services answer that they are ready."""
    made = DockerCommand(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{made.folder}:/usr/bin:/bin")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(status, "answers", lambda url: True)
    monkeypatch.setattr(start, "_POLL_SECONDS", 0.01)
    return made


@pytest.fixture
def settings() -> dict[str, str]:
    return {**free_ports(), "COMPOSE_PROJECT_NAME": "shop"}


@pytest.fixture
def runtime(tmp_path: Path, settings: dict[str, str]) -> ContainerRuntime:
    return ContainerRuntime(tmp_path / "home", settings)
