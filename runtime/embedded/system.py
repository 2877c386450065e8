"""The system on this machine without Docker: LocalStack and PostgreSQL from PyPI, the services under gunicorn."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Final

from orderflow.routing import SERVICES
from runtime import preflight
from runtime.embedded import leftovers, localstack, programs
from runtime.embedded.postgres import Postgres
from runtime.embedded.programs import Program
from runtime.embedded.start import Start
from runtime.embedded.status import ServiceProbe
from runtime.embedded.supervisor import Supervisor
from runtime.home import PROJECT, Home, write_private
from runtime.log_file import LogFile
from runtime.parts import Part
from runtime.plan import Plan, changes, make_plan
from runtime.problems import RuntimeProblem, rolled_back
from runtime.progress import Report, silent

_PASSED_THROUGH: Final = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""The only variables of the caller that the parts inherit: no AWS_*, no PYTHON*, no proxies."""


class EmbeddedRuntime:
    """One system: its state folder, its settings, and the verbs on it.

    `settings` maps variables (`WORKFLOW_MODE`, `ORDER_PORT`, …) to values, `overrides` adds variables to single
    services. Verbs raise RuntimeProblem, whose text tells a user what to do.
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
        self._supervisor = Supervisor(self.home)

    @property
    def plan(self) -> Plan:
        """The validated settings."""
        return make_plan(self._settings, self._overrides)

    @property
    def running(self) -> bool:
        """Whether the system is up, in whatever state its parts are."""
        return self._supervisor.pid() is not None

    def up(self, report: Report = silent) -> dict[str, tuple[str, str]]:
        """Starts the system, or applies changed settings to a running one; returns when all parts are ready.

        Returns the changes as setting → (old, new), or nothing if the system wasn't running. A first start that fails
        is rolled back.
        """
        plan = self.plan
        preflight.check_all(self.home)
        try:
            return self._up(plan, report)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            preflight.check_disk(self.home.path, needed=sys.maxsize)
            raise

    def _up(self, plan: Plan, report: Report) -> dict[str, tuple[str, str]]:
        with self.home.exclusive():
            postgres = Postgres(self.home, plan.port("postgres"))
            running = self.running
            old = self._applied()
            if not running and (left := leftovers.end(leftovers.find(self.home, postgres.data))):
                report("supervisor", "cleaned", f"ended {left} processes of an earlier run")
            self._check_ports(plan, old if running else {})
            start = Start(self._supervisor, postgres, plan, self.home, report)

            def stop() -> None:
                report("supervisor", "stopping", "what had been started")
                self._stop(postgres)

            with nullcontext() if running else rolled_back(stop):
                self._supervisor.write(self._programs(plan, postgres))
                if running:
                    self._supervisor.reload()
                else:
                    self._supervisor.start_daemon(self._base_environment())
                write_private(self.home.state / "applied.json", json.dumps(plan.visible(), indent=1))
                start.all()
        return changes(old, plan.visible()) if running else {}

    def down(self) -> bool:
        """Stops all processes and keeps the data. Returns whether anything was running."""
        if not self.home.path.exists():
            return False
        with self.home.exclusive():
            return self._stop(self._postgres())

    def reset(self) -> None:
        """Stops everything and deletes data and logs."""
        if not self.home.path.exists():
            return
        with self.home.exclusive():
            postgres = self._postgres()
            self._stop(postgres)
            postgres.remove()
            for folder in (self.home.localstack, self.home.logs, self.home.state):
                shutil.rmtree(folder, ignore_errors=True)

    def status(self) -> list[Part]:
        """The current state of every part."""
        plan = self.running_plan()
        processes = self._supervisor.processes()
        probe = ServiceProbe(plan, self._postgres())
        return [probe.part(name, processes.get(name)) for name in self._names(processes)]

    def running_plan(self) -> Plan:
        """The settings of the running system; those that `up` would apply if none is running."""
        applied = self._applied() if self.running else {}
        try:
            return make_plan(applied) if applied else self.plan
        except RuntimeProblem:  # applied by another version
            return self.plan

    def env(self, name: str) -> dict[str, str]:
        """The environment of the service `name`, for an additional process of it."""
        for program in self._programs(self.plan, self._postgres()):
            if program.name == name:
                return self._base_environment() | dict(program.environment)
        raise KeyError(name)

    def logs(self, name: str) -> str:
        """The current log file of a part; empty if there is none yet."""
        path = self.home.log(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def follow(self, name: str, *, from_start: bool = False) -> Callable[[], str]:
        """Follows the log across rotations."""
        return LogFile(self.home.log(name), from_start=from_start).read

    def pid(self, name: str) -> int:
        """The pid of a part's main process; 0 if it isn't running."""
        process = self._supervisor.processes().get(name)
        return process.pid if process else 0

    def _programs(self, plan: Plan, postgres: Postgres) -> list[Program]:
        binary = shutil.which("jaeger")
        tracing = binary is not None and (PROJECT / "otel" / "jaeger.yaml").exists()
        parts = [postgres.program(), localstack.program(self.home, plan)]
        if tracing and binary is not None:
            parts.append(programs.jaeger(plan, binary, self.home))
        return parts + programs.services(plan, postgres.urls(), tracing)

    def _check_ports(self, plan: Plan, applied: Mapping[str, str]) -> None:
        jaeger = {"JAEGER_PORT", "OTLP_GRPC_PORT", "OTLP_HTTP_PORT"}
        ours = {applied.get(name) for name in plan.ports}
        traced = shutil.which("jaeger") is not None
        preflight.check_ports(
            {n: p for n, p in plan.ports.items() if str(p) not in ours and (traced or n not in jaeger)}
        )

    def _postgres(self) -> Postgres:
        port = self._applied().get("POSTGRES_PORT") if self.running else None
        return Postgres(self.home, int(port) if port else self.plan.port("postgres"))

    def _names(self, processes: Mapping[str, object]) -> list[str]:
        expected = ["postgres", "localstack", *(["jaeger"] if "jaeger" in processes else []), *SERVICES]
        return [*expected, *sorted(processes.keys() - set(expected))]

    def _applied(self) -> dict[str, str]:
        try:
            applied: dict[str, str] = json.loads((self.home.state / "applied.json").read_text())
        except (OSError, ValueError):
            return {}
        return applied

    def _base_environment(self) -> dict[str, str]:
        return {name: os.environ[name] for name in _PASSED_THROUGH if name in os.environ}

    def _stop(self, postgres: Postgres) -> bool:
        names = self._supervisor.processes().keys()
        infrastructure = {"postgres", "localstack", "jaeger"}
        self._supervisor.stop(names - infrastructure)  # services first: they still publish and commit
        self._supervisor.stop(names & infrastructure)
        self._supervisor.shutdown()
        left = leftovers.end(leftovers.find(self.home, postgres.data))
        self.home.socket.unlink(missing_ok=True)
        return bool(names) or bool(left)
