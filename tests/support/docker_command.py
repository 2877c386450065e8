"""A `docker` command for tests: it notes what it is told, and answers from files. No engine is needed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from orderflow.routing import SERVICES
from runtime.home import PROJECT
from runtime.plan import PORTS

_SCRIPT: Final = """\
import json, os, sys
from pathlib import Path

folder, arguments = Path({folder!r}), sys.argv[1:]
with (folder / "calls").open("a") as file:
    file.write(json.dumps({{"arguments": arguments, "environment": dict(os.environ)}}) + "\\n")
words = [word for word in arguments if word in {known!r}]
verb = words[0] if words else arguments[0]
containers = json.loads((folder / "containers").read_text())
if verb == "version":
    print("28.0")
elif verb == "context":
    print("unix:///var/run/docker.sock")
elif verb == "ps":
    print("\\n".join(one["Id"] for one in containers))
elif verb == "inspect":
    print(json.dumps(containers))
elif verb == "up" and (folder / "after").exists():
    os.replace(folder / "after", folder / "containers")
elif verb == "down":
    (folder / "containers").write_text("[]")
answer = folder / f"answer-{{verb}}"
code, said = json.loads(answer.read_text()) if answer.exists() else (0, "")
print(said, end="", file=sys.stderr if code else sys.stdout)
sys.exit(code)
"""
PARTS: Final = ("postgres", "localstack", "jaeger", *SERVICES)

_COMPOSE: Final = ("build", "up", "down", "logs")


class DockerCommand:
    """The command at the head of PATH, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "script.py").write_text(_SCRIPT.format(folder=str(folder), known=_COMPOSE))
        (folder / "docker").write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{folder}/script.py" "$@"\n')
        (folder / "docker").chmod(0o755)
        self.there()

    def there(self, *containers: Mapping[str, Any]) -> None:
        """The containers that there are."""
        (self.folder / "containers").write_text(json.dumps(containers))

    def makes(self, *containers: Mapping[str, Any]) -> None:
        """The containers that there are after `docker compose up`."""
        (self.folder / "after").write_text(json.dumps(containers))

    def answers(self, verb: str, code: int, said: str) -> None:
        """What `verb` says from now on, on stderr if its exit code says that it failed."""
        (self.folder / f"answer-{verb}").write_text(json.dumps([code, said]))

    def calls(self, *verbs: str) -> list[list[str]]:
        """The arguments of all calls so far, or of those with one of the `verbs` in them."""
        return [one["arguments"] for one in self._noted() if not verbs or set(verbs) & set(one["arguments"])]

    def environment(self, verb: str) -> dict[str, str]:
        """What the last call of `verb` was given."""
        *_, last = [one for one in self._noted() if verb in one["arguments"]]
        found: dict[str, str] = last["environment"]
        return found

    def forget(self) -> None:
        """What was noted so far."""
        (self.folder / "calls").unlink(missing_ok=True)

    def _noted(self) -> list[dict[str, Any]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def container(
    service: str, *, number: int = 1, status: str = "running", health: str = "healthy", restarts: int = 0,
    environment: Mapping[str, str] | None = None, ports: Mapping[int, int] | None = None, folder: str = str(PROJECT),
) -> dict[str, Any]:  # fmt: skip
    """What `docker inspect` says of a container of a compose project."""
    label = "com.docker.compose"
    return {
        "Id": f"id-{service}-{number}",
        "State": {
            "Status": status, "Health": {"Status": health} if health else None, "ExitCode": 0,
            "Pid": os.getpid() if status in ("running", "paused") else 0, "StartedAt": "2026-01-02T03:04:05.678901234Z",
        },
        "RestartCount": restarts,
        "Config": {
            "Env": [f"{name}={value}" for name, value in (environment or {}).items()],
            "Labels": {
                f"{label}.service": service, f"{label}.container-number": str(number),
                f"{label}.project.working_dir": folder,
            },
        },
        "HostConfig": {
            "PortBindings": {
                f"{own}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(here)}] for own, here in (ports or {}).items()
            }
        },
    }  # fmt: skip


def whole(settings: dict[str, str], workflow: str = "choreography", **different: Any) -> list[dict[str, Any]]:
    """The containers of a system that is up; `different` ones by their service."""
    environment = {"WORKFLOW_MODE": workflow, "EVENT_BUS": "sns"}
    own = {"postgres": 5432}
    made = []
    for part in PARTS:
        variable = f"{part.upper()}_PORT"
        ports = {own.get(part, PORTS[variable]): int(settings[variable])}
        if part == "jaeger":
            ports |= {4317: int(settings["OTLP_GRPC_PORT"]), 4318: int(settings["OTLP_HTTP_PORT"])}
        facts: dict[str, Any] = {"ports": ports, "environment": environment if part in SERVICES else {}}
        made.append(container(part, **(facts | different.get(part, {}))))
    return made


def compose(*words: str) -> list[str]:
    """A whole command line of `docker compose`, without its first word."""
    return [
        "compose", "--env-file", "/dev/null", "--ansi", "never", "--project-name", "shop",
        "--project-directory", str(PROJECT), "--file", str(PROJECT / "docker-compose.yml"), *words,
    ]  # fmt: skip


DOWN: Final = compose("--profile", "cli", "down", "--remove-orphans")
