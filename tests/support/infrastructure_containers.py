"""The infrastructure for tests from containers, by testcontainers: the compose file's images, settings and mounts."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

import psycopg
import yaml
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from orderflow.routing import SERVICES
from runtime.containers.docker import COMPOSE_FILE
from runtime.home import PROJECT
from runtime.probe import answers
from tests.support.ports import free_ports
from tests.support.system import until

# These fixtures clean up after themselves; testcontainers' reaper would be one more image to pull.
testcontainers_config.ryuk_disabled = True

_INNER: Final = {
    "localstack": {4566: "LOCALSTACK_PORT"},
    "postgres": {5432: "POSTGRES_PORT"},
    "jaeger": {16686: "JAEGER_PORT", 4318: "OTLP_HTTP_PORT"},
}
_OWNERS: Final = (*SERVICES, "providers")


class ContainerInfrastructure:
    """Three containers with fixed ports (`given`, by variable, or free ones), so that a restarted one keeps its
    address."""

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        services = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
        ports = {name: int(port) for name, port in (given or free_ports()).items()}
        self.broker_url = f"http://127.0.0.1:{ports['LOCALSTACK_PORT']}"
        self.jaeger_url: str | None = f"http://127.0.0.1:{ports['JAEGER_PORT']}"
        self.otlp_url: str | None = f"http://127.0.0.1:{ports['OTLP_HTTP_PORT']}"
        self.database_urls = {
            owner: f"postgresql://orderflow_{owner}:{owner}@127.0.0.1:{ports['POSTGRES_PORT']}/orderflow_{owner}"
            for owner in _OWNERS
        }
        self._containers = {part: _container(services[part], _INNER[part], ports) for part in _INNER}
        try:
            for container in self._containers.values():
                container.start()
            for part in self._containers:
                self._until_ready(part)
        except BaseException:
            self.close()
            raise

    def stop(self, part: str) -> None:
        self._of(part).stop(timeout=30)

    def start(self, part: str) -> None:
        self._of(part).start()
        self._until_ready(part)

    def kill(self, part: str) -> None:
        self._of(part).kill()
        self.start(part)

    def close(self) -> None:
        for container in self._containers.values():
            container.stop()

    def _of(self, part: str) -> Any:
        return self._containers[part].get_wrapped_container()

    def ready(self, part: str) -> bool:
        checks = {
            "localstack": self._stack_is_whole,
            "postgres": self._databases_answer,
            "jaeger": lambda: answers(f"{self.jaeger_url}/api/services"),
        }
        return checks[part]()

    def _until_ready(self, part: str) -> None:
        until(lambda: self.ready(part), what=lambda: f"{part}: {self._of(part).logs(tail=30).decode(errors='replace')}")

    def _stack_is_whole(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.broker_url}/_localstack/init/ready", timeout=2) as answer:
                state = json.load(answer)
        except (OSError, ValueError):
            return False
        assert not any(script["state"] == "ERROR" for script in state["scripts"]), "the stack couldn't be deployed"
        return bool(state["completed"] and state["scripts"])

    def _databases_answer(self) -> bool:
        try:
            psycopg.connect(self.database_urls[_OWNERS[-1]], connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def _container(service: dict[str, Any], inner: dict[int, str], ports: dict[str, int]) -> DockerContainer:
    """A part of the compose file as testcontainers wants it: image, command, user, environment, mounts."""
    container = DockerContainer(_filled(service["image"]), user=service.get("user"))
    if "command" in service:
        container.with_command(service["command"])
    for name, value in service.get("environment", {}).items():
        if value is not None:
            container.with_env(name, _filled(str(value)))
    for mount in service["volumes"]:
        source, target, *mode = mount.split(":")
        if source.startswith("./"):  # PostgreSQL's data is deleted with its container
            container.with_volume_mapping(str(PROJECT / source), target, mode[0] if mode else "rw")
    container.tmpfs = dict(mount.split(":") for mount in service["tmpfs"])
    for own, variable in inner.items():
        container.ports[str(own)] = ("127.0.0.1", ports[variable])  # type: ignore[assignment]
    return container


def _filled(text: str) -> str:
    """`${NAME:-default}` → default."""
    while "${" in text:
        before, _, rest = text.partition("${")
        inside, _, after = rest.partition("}")
        text = before + inside.partition(":-")[2] + after
    return text
