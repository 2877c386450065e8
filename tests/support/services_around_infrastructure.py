"""The services as the embedded runtime runs them, around infrastructure that comes from containers."""

from __future__ import annotations

import os
from collections.abc import Mapping

from orderflow.routing import SERVICES
from runtime import EmbeddedRuntime
from runtime.embedded import programs
from runtime.embedded.postgres import Postgres
from runtime.embedded.programs import Program
from runtime.embedded.status import ServiceProbe
from runtime.parts import Part
from runtime.plan import Plan
from runtime.progress import Report, silent
from tests.support.infrastructure import PARTS
from tests.support.infrastructure_containers import ContainerInfrastructure
from tests.support.system import until


class AroundContainers(EmbeddedRuntime):
    """Has the same verbs as `EmbeddedRuntime`, for tests. LocalStack, PostgreSQL and Jaeger can be stopped and started;
    tests that need their processes (for SIGSTOP, say) use the embedded ones."""

    def __init__(
        self,
        home: str | os.PathLike[str] | None = None,
        settings: Mapping[str, str] | None = None,
        overrides: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__(home, settings, overrides)
        self._around: ContainerInfrastructure | None = None

    def up(self, report: Report = silent) -> dict[str, tuple[str, str]]:
        plan = self.plan
        if self._around is None:
            self._around = ContainerInfrastructure({name: str(port) for name, port in plan.ports.items()})
        with self.home.exclusive():
            self._supervisor.write(self._programs(plan, self._postgres()))
            if self.running:
                self._supervisor.reload()
            else:
                self._supervisor.start_daemon(self._base_environment())
            for service in SERVICES:
                self._supervisor.start(service)
        until(
            lambda: {part.state for part in self.status()} == {"ready"},
            what=lambda: {part.name: part.state for part in self.status()},
        )
        return {}

    def reset(self) -> None:
        super().reset()
        if self._around:
            self._around.close()
            self._around = None

    def status(self) -> list[Part]:
        plan, processes = self.plan, self._supervisor.processes()
        probe = ServiceProbe(plan, self._postgres())
        around = [
            Part(part, self._state(part), None, plan.port(part), 0.0, f"127.0.0.1:{plan.port(part)}") for part in PARTS
        ]
        return around + [probe.part(service, processes.get(service)) for service in SERVICES]

    def database_urls(self) -> dict[str, str]:
        assert self._around, "it isn't up"
        return self._around.database_urls

    def stop(self, name: str) -> None:
        if self._around and name in PARTS:
            self._around.stop(name)
        else:
            super().stop(name)

    def start(self, name: str) -> None:
        if self._around and name in PARTS:
            self._around.start(name)
        else:
            super().start(name)

    def _state(self, part: str) -> str:
        return "ready" if self._around and self._around.ready(part) else "unready"

    def _programs(self, plan: Plan, postgres: Postgres) -> list[Program]:
        urls = {f"orderflow_{owner}": url for owner, url in self.database_urls().items()}
        return programs.services(plan, urls, tracing=True)
