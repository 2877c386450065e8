"""A `docker` command for tests: it notes what it is told, and answers from files. No engine is needed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orderflow.routing import SERVICES
from runtime.home import PROJECT
from runtime.plan import PORTS

PARTS: Final = ("postgres", "localstack", "jaeger", *SERVICES)

_SCRIPT: Final = r"""#!/bin/sh
cd '{folder}' || exit 1
printf '%s\037' "$@" '
' >>calls
for word; do case $word in build | up | down | logs) verb=$word; break ;; esac; done
verb=${{verb:-$1}}
env >"environment-$verb"
case $verb in
version) echo 28.0 ;;
context) echo unix:///var/run/docker.sock ;;
ps) cat ids ;;
inspect) cat containers ;;
up) if [ -e after ]; then mv after containers && mv after-ids ids; fi ;;
down) echo '[]' >containers && : >ids ;;
esac
if [ -e "failure-$verb" ]; then cat "failure-$verb" >&2; exit 1; fi
if [ -e "answer-$verb" ]; then cat "answer-$verb"; fi
"""


class DockerCommand:
    """The command at the head of PATH, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "docker").write_text(_SCRIPT.format(folder=folder))
        (folder / "docker").chmod(0o755)
        self.there()

    def there(self, *containers: Mapping[str, Any]) -> None:
        """The containers that there are."""
        self._write("containers", "ids", containers)

    def makes(self, *containers: Mapping[str, Any]) -> None:
        """The containers that there are after `docker compose up`."""
        self._write("after", "after-ids", containers)

    def answers(self, verb: str, said: str) -> None:
        """What `verb` prints from now on."""
        (self.folder / f"answer-{verb}").write_text(said)

    def fails(self, verb: str, said: str) -> None:
        """What `verb` says on stderr from now on, and exits with 1."""
        (self.folder / f"failure-{verb}").write_text(said)

    def calls(self, *verbs: str) -> list[list[str]]:
        """The arguments of all calls so far, or of those with one of the `verbs` in them."""
        path = self.folder / "calls"
        text = path.read_text() if path.exists() else ""
        calls = [call.split("\037")[:-1] for call in text.split("\n\037")[:-1]]
        return [call for call in calls if not verbs or set(verbs) & set(call)]

    def environment(self, verb: str) -> dict[str, str]:
        """What the last call of `verb` was given."""
        lines = (self.folder / f"environment-{verb}").read_text().splitlines()
        return dict(line.partition("=")[::2] for line in lines)

    def forget(self) -> None:
        """The calls so far."""
        (self.folder / "calls").unlink(missing_ok=True)

    def _write(self, name: str, ids: str, containers: Sequence[Mapping[str, Any]]) -> None:
        (self.folder / name).write_text(json.dumps(containers))
        (self.folder / ids).write_text("".join(one["Id"] + "\n" for one in containers))


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
