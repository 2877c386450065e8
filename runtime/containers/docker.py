"""The `docker` and `docker compose` commands, and the containers of one Compose project."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from runtime.home import PROJECT
from runtime.problems import RuntimeProblem

COMPOSE_FILE: Final = PROJECT / "docker-compose.yml"
PROFILES: Final = ("--profile", "cli")

_PASSED_THROUGH: Final = re.compile(
    r"^(PATH|HOME|USER|LANG|LC_ALL|TMPDIR|SSH_\w+|XDG_\w+|DOCKER_\w+|BUILDKIT_\w+|BUILDX_\w+|\w+_(proxy|PROXY))$"
)
"""Variables of the caller that Docker's commands inherit; the Compose file's settings are passed by name."""

_ANSWER_SECONDS: Final = 30.0
_ENGINE_SECONDS, _CONTEXT_SECONDS = 3.0, 1.5
"""Their sum is the maximum time to find out that Docker hangs."""


@dataclass(frozen=True, slots=True)
class Container:
    """One container of a project, as Docker reports it."""

    id: str
    service: str
    """Its service in the Compose file."""
    name: str
    """The name of its part: `payment`, or `payment-worker-2` if it can be scaled."""
    status: str
    """created, running, paused, restarting, exited or dead."""
    health: str
    """starting, healthy or unhealthy; empty without a health check."""
    pid: int
    started: float
    restarts: int
    folder: str
    """The folder of the Compose file that it was created from."""
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[int, int] = field(default_factory=dict)
    """Container port → host port."""

    @property
    def alive(self) -> bool:
        return self.status in ("running", "paused", "restarting")


class Compose:
    """`docker compose` for one project. `environment` holds the values of the Compose file's variables."""

    def __init__(self, project: str, environment: Mapping[str, str], more_files: Sequence[Path] = ()) -> None:
        self.project = project
        self._environment = base_environment() | dict(environment)
        self._files = (COMPOSE_FILE, *more_files)

    def command(self, *arguments: str) -> list[str]:
        """The full command line. Compose reads no `.env`: its settings are already in the environment."""
        files = [word for path in self._files for word in ("--file", str(path))]
        project = ["--project-name", self.project, "--project-directory", str(PROJECT)]
        return ["docker", "compose", "--env-file", os.devnull, "--ansi", "never", *project, *files, *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; the caller checks the result."""
        return subprocess.run(
            self.command(*arguments), env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", check=False,
        )  # fmt: skip

    @contextmanager
    def started(self, log: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Runs a command in the background with its output in `log`; terminates it when the block is left."""
        with log.open("w") as file, subprocess.Popen(
            self.command(*arguments), env=self._environment, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.terminate()  # does nothing to a process that has ended
                process.wait()  # also after Ctrl-C, when Popen's own exit waits for a moment only


def base_environment() -> dict[str, str]:
    """The environment of every Docker command."""
    return {name: value for name, value in os.environ.items() if _PASSED_THROUGH.match(name)}


def engine() -> str | None:
    """The version of the Docker Engine; None if none answers, or Compose is missing."""
    try:
        return check_engine()
    except RuntimeProblem:
        return None


def check_engine() -> str:
    """The engine's version. Raises RuntimeProblem that says what is missing, and how to run without Docker."""
    without = "or run without Docker: ORDERFLOW_RUNTIME=embedded make up"
    if shutil.which("docker") is None:
        raise RuntimeProblem("There is no `docker` command on PATH.", f"Install Docker (docs.docker.com), {without}")
    if (place := _endpoint()) and not _here(place):
        raise RuntimeProblem(
            f"Docker's engine is on another machine ({place}): containers would have their ports there, not here.",
            f"Choose an engine of this machine (unset DOCKER_HOST, `docker context use default`), {without}",
        )
    version = docker("version", "--format", "{{.Server.Version}}", seconds=_ENGINE_SECONDS)
    if version.returncode:
        said = version.stderr.strip().splitlines() or ["it doesn't answer"]
        raise RuntimeProblem(
            f"No Docker Engine answers{f' at {place}' if place else ''}: {said[-1]}",
            f"Start Docker Desktop, or `systemctl start docker`; {without}",
        )
    if docker("compose", "version").returncode:
        raise RuntimeProblem(
            "Docker answers, but `docker compose` (version 2) is missing.",
            f"Install the package docker-compose-plugin, {without}",
        )
    return version.stdout.strip()


def _endpoint() -> str:
    """The address of the engine that Docker's commands use; empty if unknown."""
    if host := os.environ.get("DOCKER_HOST"):
        return host
    found = docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}", seconds=_CONTEXT_SECONDS)
    return "" if found.returncode else found.stdout.strip()


def _here(endpoint: str) -> bool:
    """Whether the engine is on this machine: a socket, a pipe, or loopback."""
    url = urlsplit(endpoint)
    return url.scheme in ("unix", "npipe", "fd") or url.hostname in ("localhost", "127.0.0.1", "::1", None)


def docker(*arguments: str, seconds: float = _ANSWER_SECONDS) -> subprocess.CompletedProcess[str]:
    """Runs a `docker` command that must answer within `seconds`; the caller checks the result."""
    command = ["docker", *arguments]
    with subprocess.Popen(
        command, env=base_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no answer within {seconds:g} s")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its children also hold the pipes open
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def ask(*arguments: str, seconds: float = _ANSWER_SECONDS) -> str:
    """The output of a `docker` command. Raises RuntimeProblem with Docker's error message if it fails."""
    done = docker(*arguments, seconds=seconds)
    if done.returncode:
        raise RuntimeProblem(f"`docker {arguments[0]}` failed: {done.stderr.strip()}", "See: docker info")
    return done.stdout


def containers(project: str) -> list[Container]:
    """The containers of a project, without those of `docker compose run`. Raises RuntimeProblem."""
    label = "label=com.docker.compose"
    ids = ask("ps", "--all", "--quiet", "--no-trunc", "--filter", f"{label}.project={project}",
              "--filter", f"{label}.oneoff=False").split()  # fmt: skip
    if not ids:
        return []
    done = docker("inspect", *ids)  # fails if some have been removed since, but still prints the others
    found = json.loads(done.stdout or "[]")
    return sorted((_container(one) for one in found), key=lambda c: (c.service, len(c.name), c.name))


def _container(facts: Mapping[str, Any]) -> Container:
    state, labels = facts["State"], facts["Config"]["Labels"]
    bindings = facts["HostConfig"].get("PortBindings") or {}
    service = labels.get("com.docker.compose.service", "")
    number = labels.get("com.docker.compose.container-number", "1")
    return Container(
        id=facts["Id"],
        service=service,
        name=f"{service}-{number}" if service.endswith("-worker") else service,
        status=state["Status"],
        health=(state.get("Health") or {}).get("Status", ""),
        pid=state["Pid"],
        started=_time(state["StartedAt"]),
        restarts=facts["RestartCount"],
        folder=labels.get("com.docker.compose.project.working_dir", ""),
        environment=dict(line.partition("=")[::2] for line in facts["Config"]["Env"] or ()),
        ports={
            int(own.partition("/")[0]): int(there[0]["HostPort"])
            for own, there in bindings.items()
            if there and there[0]["HostPort"]
        },
    )


def _time(text: str) -> float:
    """Seconds since the epoch. Docker writes nanoseconds, which Python doesn't parse."""
    return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp()
