"""The state of the parts: from the supervisor, and from their own readiness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from runtime.embedded import localstack
from runtime.embedded.postgres import Postgres
from runtime.embedded.supervisor import Process
from runtime.parts import Part
from runtime.plan import Plan
from runtime.probe import refusal
from runtime.problems import RuntimeProblem

_STATES: Final[Mapping[str, str]] = {
    "STARTING": "starting",
    "BACKOFF": "restarting",
    "EXITED": "restarting",
    "STOPPING": "stopping",
    "FATAL": "failed",
    "UNKNOWN": "failed",
}


class ServiceProbe:
    """Checks whether the parts of one system are ready."""

    def __init__(self, plan: Plan, postgres: Postgres) -> None:
        self._plan = plan
        self._postgres = postgres

    def part(self, name: str, process: Process | None) -> Part:
        """The state of one part, from its process (None if the supervisor doesn't know it)."""
        port = self._plan.port(name)
        running = process is not None and bool(process.pid)
        return Part(
            name=name,
            state=self._state(name, process),
            pid=process.pid if process is not None and running else None,
            port=port,
            uptime=process.uptime if process is not None and running else 0.0,
            url=f"postgresql://127.0.0.1:{port}" if name == "postgres" else f"http://127.0.0.1:{port}",
        )

    def ready(self, name: str) -> bool:
        """Whether the part is ready. Raises RuntimeProblem if it reports that it never will be."""
        return self.refusal(name) is None

    def refusal(self, name: str) -> str | None:
        """Why the part isn't ready (yet), as it reports it; None if it is. Raises RuntimeProblem as `ready` does."""
        if name == "postgres":
            return self._postgres.refusal()
        if name == "localstack":
            return localstack.refusal(self._plan)
        return refusal(self._plan.url(name) + ("/" if name == "jaeger" else "/readyz"))

    def _state(self, name: str, process: Process | None) -> str:
        if process is None or process.state == "STOPPED":
            return "stopped"
        if process.state in ("RUNNING", "STARTING"):
            try:
                if self.ready(name):
                    return "ready"
            except RuntimeProblem:
                return "failed"
            return "unready" if process.state == "RUNNING" else "starting"
        return _STATES.get(process.state, "failed")
