"""The system in containers: the runtime's verbs over `docker compose` and the project's Compose file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from orderflow.routing import SERVICES
from runtime import preflight
from runtime.containers import docker
from runtime.containers.docker import Compose, Container
from runtime.containers.logs import ContainerLogs
from runtime.containers.start import ContainerStart
from runtime.containers.status import parts
from runtime.home import PROJECT, Home, write_private
from runtime.parts import Part
from runtime.plan import Plan, changes, make_plan
from runtime.problems import RuntimeProblem, rolled_back
from runtime.progress import Report, silent

OWN_SETTINGS: Final = (
    "LOCALSTACK_IMAGE", "LOCALSTACK_AUTH_TOKEN", "ORDERFLOW_IMAGE_TAG", "POSTGRES_PASSWORD",
    "OTEL_TRACES_SAMPLER_ARG",
    *(f"{owner.upper()}_DATABASE_PASSWORD" for owner in (*SERVICES, "providers")),
)  # fmt: skip
"""Variables of the Compose file that are not in the plan."""

_MOUNTED: Final = ("localstack/init/ready.d/*.py", "localstack/stack.yaml", "deploy/containers/databases.sh",
                   "otel/jaeger.yaml")  # fmt: skip


class ContainerRuntime:
    """One Compose project: its settings, and the verbs on it. The same contract as `EmbeddedRuntime`.

    `settings` maps variables to values, `overrides` adds variables to single services. The project is named by
    COMPOSE_PROJECT_NAME, by default after `home`. Verbs raise RuntimeProblem.
    """

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        settings: Mapping[str, str] | None = None,
        overrides: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.home = Home.at(home)
        self._settings = dict(settings or {})
        self._overrides = {name: dict(more) for name, more in (overrides or {}).items()}
        default = "orderflow" if home is None else f"orderflow-{self.home.key}"
        self.project = self._settings.get("COMPOSE_PROJECT_NAME") or default
        self._logs = ContainerLogs(self.compose)

    @property
    def plan(self) -> Plan:
        """The validated settings."""
        return make_plan(self._settings, self._overrides)

    @property
    def running(self) -> bool:
        """Whether the system is up, in whatever state its parts are."""
        return any(container.alive for container in self._there())

    def containers(self) -> list[Container]:
        """Every container of the project, running or not."""
        return docker.containers(self.project)

    def up(self, report: Report = silent) -> dict[str, tuple[str, str]]:
        """Builds changed images, starts stopped containers and recreates those with changed settings; returns when all
        parts are ready. Returns the changes on a running system as setting → (old, new).

        A first start that fails is rolled back.
        """
        plan = self.plan
        self.home.make()
        docker.check_engine()
        _check_readable()
        with self.home.exclusive():
            there = self.containers()
            self._check_folder(there)
            running = any(container.alive for container in there)
            old = _plan_of(there).visible() if running else {}
            ours = {str(port) for container in there if container.alive for port in container.ports.values()}
            preflight.check_ports({name: port for name, port in plan.ports.items() if str(port) not in ours})
            start = ContainerStart(self._compose(plan), plan, self.home, report)

            def stop() -> None:
                report("containers", "stopping", "what had been started")
                self._compose(plan).run(*docker.PROFILES, "down", "--remove-orphans")

            with nullcontext() if running else rolled_back(stop):
                start.build()
                start.all()
        return changes(old, plan.visible()) if running else {}

    def down(self) -> bool:
        """Stops and removes the containers; keeps the data's volume. Returns whether anything was running."""
        return self._down()

    def reset(self) -> None:
        """Stops everything and deletes data and logs."""
        self._down("--volumes")

    def status(self) -> list[Part]:
        """The current state of every part."""
        there = self._there()
        return parts(_plan_of(there) if there else self.plan, there)

    def running_plan(self) -> Plan:
        """The settings of the running system, whether this runtime or `docker compose up` started it."""
        there = self._there()
        return _plan_of(there) if any(container.alive for container in there) else self.plan

    def logs(self, name: str) -> str:
        """The log of a part, as far as Docker keeps it."""
        return self._logs.text(name)

    def follow(self, name: str, *, from_start: bool = False) -> Callable[[], str]:
        """As far as Docker keeps it."""
        return self._logs.follow(name, from_start=from_start)

    def _down(self, *more: str) -> bool:
        docker.check_engine()
        with self.home.exclusive():
            there = bool(self.containers())
            done = self.compose().run(*docker.PROFILES, "down", "--remove-orphans", *more)
            if done.returncode:
                raise RuntimeProblem(f"Stopping failed: {done.stderr.strip()[-500:]}", "See: docker compose ps --all")
        return there

    def compose(self) -> Compose:
        """`docker compose` with this project's settings; with the defaults if those are invalid: `down` needs none."""
        try:
            return self._compose(self.plan)
        except RuntimeProblem:
            return self._compose(make_plan({}))

    def _there(self) -> list[Container]:
        """The containers; none if no engine answers."""
        return self.containers() if docker.engine() else []

    def _compose(self, plan: Plan) -> Compose:
        own = {name: self._settings[name] for name in OWN_SETTINGS if self._settings.get(name)}
        ports = {name: str(port) for name, port in plan.ports.items()}
        return Compose(self.project, own | dict(plan.settings) | ports, self._override_files())

    def _override_files(self) -> list[Path]:
        if not self._overrides:
            return []
        services = {name: {"environment": more} for name, more in self._overrides.items()}
        self.home.make()
        path = self.home.run / "compose.override.json"
        write_private(path, json.dumps({"services": services}))
        return [path]

    def _check_folder(self, there: list[Container]) -> None:
        foreign = {c.folder for c in there if c.folder and Path(c.folder) != PROJECT}
        if foreign:
            raise RuntimeProblem(
                f"The containers of project {self.project!r} are of another clone: {', '.join(sorted(foreign))}.",
                "Stop that one (`make down` there), or give this one a name and ports of its own:\n"
                "COMPOSE_PROJECT_NAME=other ORDER_PORT=… make up  (.env.example lists the ports)",
            )


def _plan_of(there: list[Container]) -> Plan:
    """The plan that the containers were created with, read from their environments and ports."""
    services = [c for c in there if c.service in SERVICES]
    values = dict(services[0].environment) if services else {}
    names = {4317: "OTLP_GRPC_PORT", 4318: "OTLP_HTTP_PORT"}
    for container in there:
        for own, here in container.ports.items() if container.name == container.service else ():
            values[names.get(own, f"{container.service.upper()}_PORT")] = str(here)
    # Defaults of the Compose file, not settings of the user.
    if values.get("JAEGER_URL") == f"http://127.0.0.1:{values.get('JAEGER_PORT', 16686)}":
        del values["JAEGER_URL"]
    if values.get("OTEL_EXPORTER_OTLP_ENDPOINT") == "http://jaeger:4318":
        del values["OTEL_EXPORTER_OTLP_ENDPOINT"]
    try:
        return make_plan(values)
    except RuntimeProblem:  # created by another version
        return make_plan({})


def _check_readable() -> None:
    """A clone made with umask 077 can't be read by the containers' users."""
    mounted = [path for pattern in _MOUNTED for path in sorted(PROJECT.glob(pattern))]
    closed = [str(path.relative_to(PROJECT)) for path in mounted if not path.stat().st_mode & 0o004]
    if closed and os.name == "posix":
        raise RuntimeProblem(
            f"The containers' users can't read {', '.join(closed)}.", f"Let them: chmod o+r {' '.join(closed)}"
        )
