"""Runs a system on this machine: one set of verbs, with an implementation for processes and one for containers.

`runtime()` returns the one that `ORDERFLOW_RUNTIME` names; by default containers if a Docker Engine answers.
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
    """The verbs. All raise RuntimeProblem for what a user can fix."""

    @property
    def plan(self) -> Plan:
        """The settings that `up` applies."""

    def running_plan(self) -> Plan:
        """The settings of the running system; `plan` if none is running."""

    @property
    def running(self) -> bool:
        """Whether the system is up, in whatever state its parts are."""

    def up(self, report: Report = ...) -> dict[str, tuple[str, str]]:
        """Starts the system, or applies changed settings; returns what changed on a running system."""

    def down(self) -> bool:
        """Stops the system and keeps its data. Returns whether anything was running."""

    def reset(self) -> None:
        """Stops the system and deletes its data."""

    def status(self) -> list[Part]:
        """The current state of every part."""

    def logs(self, name: str) -> str:
        """The recent log of a part."""

    def follow(self, name: str, *, from_start: bool = False) -> Callable[[], str]:
        """A function that returns the complete lines that a part has logged since the last call. The first call starts
        at the beginning of the kept log with `from_start`, and at its current end without."""


def runtime() -> Runtime:
    """The runtime that the environment and `.env` choose."""
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
