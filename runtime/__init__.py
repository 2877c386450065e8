"""How a system is run on this machine: one set of verbs, whatever is behind them.

`runtime()` gives the one that `ORDERFLOW_RUNTIME` names; where it names none, containers if a Docker Engine answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from runtime.attached import AttachedRuntime
from runtime.containers import ContainerRuntime, docker
from runtime.embedded import EmbeddedRuntime
from runtime.parts import Part
from runtime.plan import Plan, user_settings
from runtime.problems import RuntimeProblem
from runtime.progress import Report

__all__ = [
    "AttachedRuntime", "ContainerRuntime", "EmbeddedRuntime", "Part", "Plan", "Runtime", "RuntimeProblem", "runtime",
]  # fmt: skip


class Runtime(Protocol):
    """The verbs. All raise RuntimeProblem for what a user can put right."""

    @property
    def plan(self) -> Plan:
        """The settings that `up` gives."""

    def running_plan(self) -> Plan:
        """The settings that the running system has; those of `plan` where there is none."""

    @property
    def running(self) -> bool:
        """Whether the system is up, in whatever state its parts are."""

    def up(self, report: Report = ...) -> dict[str, tuple[str, str]]:
        """Starts it, or applies changed settings; returns what changed on a running system."""

    def down(self) -> bool:
        """Stops it; data stays. Returns whether anything ran."""

    def reset(self) -> None:
        """Stops it and deletes its data."""

    def status(self) -> list[Part]:
        """Every part as it is now."""

    def logs(self, name: str) -> str:
        """What a part has written lately."""

    def follow(self, name: str, *, from_start: bool = False) -> Callable[[], str]:
        """A function that gives the whole lines that a part has written since it was last called. `from_start`: all
        that is kept of its log at first, otherwise what it writes from now on."""


def runtime() -> Runtime:
    """The runtime that the environment and `.env` ask for."""
    settings = user_settings()
    home = settings.get("ORDERFLOW_HOME") or None
    kind = settings.get("ORDERFLOW_RUNTIME") or ""
    embedded = EmbeddedRuntime(home, settings)
    if not kind:
        # A system that is up stays where it is, even if a Docker Engine has been started since.
        kind = "embedded" if embedded.running or docker.engine() is None else "containers"
    if kind == "embedded":
        return embedded
    if kind == "containers":
        return ContainerRuntime(home, settings)
    if kind == "attached":
        return AttachedRuntime(settings)
    raise RuntimeProblem(f"ORDERFLOW_RUNTIME={kind!r} is unknown.", "Choose one of: embedded, containers")
