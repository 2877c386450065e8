"""Starts a Compose project: builds the images, creates the containers, waits for every part."""

from __future__ import annotations

import re
import time
from typing import Final

from runtime.containers import docker
from runtime.containers.docker import Compose
from runtime.containers.status import parts
from runtime.home import Home
from runtime.plan import Plan
from runtime.problems import RuntimeProblem
from runtime.progress import Report

READY_SECONDS: Final = 240.0
"""Timeout for all parts once the images are built. A start takes 25 s on two idle cores."""
_DEATHS_TOLERATED: Final = 2
_POLL_SECONDS: Final = 0.5
_UP: Final = ("--progress", "plain", "up", "--detach", "--no-build", "--remove-orphans")
"""Without --wait, which reports no progress and doesn't notice a service that crashes in a loop."""
_TAKEN: Final = re.compile(r"(?:listen tcp4?|Bind for) [\d.]+:(\d+)")


class ContainerStart:
    """Brings one project to the state of its plan, and reports the progress of each part."""

    def __init__(self, compose: Compose, plan: Plan, home: Home, report: Report) -> None:
        self._compose = compose
        self._plan = plan
        self._home = home
        self._report = report
        self._told: dict[str, str] = {}
        self._deaths: dict[str, int] = {}

    def build(self) -> None:
        """Builds the services' images; a second if nothing changed. Raises RuntimeProblem with the log's end."""
        self._report("images", "building", "about a minute the first time")
        began = time.monotonic()
        log = self._home.log("build")
        with self._compose.started(log, "--progress", "plain", "build") as building:
            if building.wait():
                raise RuntimeProblem(
                    f"The images couldn't be built.\n{_last_lines(log.read_text(errors='replace'))}",
                    f"The whole log: {log}. Check that the package index can be reached, then try again.",
                )
        self._report("images", "ready", f"{time.monotonic() - began:.1f} s")

    def all(self) -> None:
        """Creates and starts the containers; returns when every part is ready. Raises RuntimeProblem."""
        log = self._home.log("compose")
        began = time.monotonic()
        self._deaths = {c.id: c.restarts for c in docker.containers(self._compose.project)}
        with self._compose.started(log, *_UP) as starting:
            while True:
                done = starting.poll()  # before the check: a container that is ready now may be about to be recreated
                if done:
                    raise self._failed(log.read_text(errors="replace"))
                if self._look(began) and done == 0:
                    return
                if time.monotonic() - began > READY_SECONDS:
                    raise self._late()
                time.sleep(_POLL_SECONDS)

    def _look(self, began: float) -> bool:
        """Reports state changes; returns whether all parts are ready."""
        containers = docker.containers(self._compose.project)
        for container in containers:
            if container.restarts - self._deaths.get(container.id, 0) > _DEATHS_TOLERATED:
                raise RuntimeProblem(
                    f"{container.name} ends as soon as it is started.\n{self._log_of(container.name)}",
                    f"See: orderflow logs {container.name}",
                )
        found = parts(self._plan, containers)
        for part in found:
            state = "waiting" if part.state in ("stopped", "starting") and not part.pid else part.state
            if self._told.get(part.name) != state and not (state == "waiting" and part.name in self._told):
                self._told[part.name] = state
                self._report(part.name, state, f"{time.monotonic() - began:.1f} s" if state == "ready" else "")
        return all(part.state == "ready" for part in found)

    def _failed(self, said: str) -> RuntimeProblem:
        if found := _TAKEN.search(said):
            port = int(found[1])
            name = next((n for n, p in self._plan.ports.items() if p == port), "its variable")
            return RuntimeProblem(
                f"Port {port} ({name}) is taken.", f"End what listens there, or choose another port: {name}=… make up"
            )
        if found := re.search(r"container \S+?-([a-z]+)-\d+ (is unhealthy|exited \(\d+\))", said):
            return RuntimeProblem(
                f"{found[1]} {found[2]}; nothing can start without it.\n{self._log_of(found[1])}",
                f"See: orderflow logs {found[1]}",
            )
        return RuntimeProblem(f"`docker compose up` failed.\n{_last_lines(said)}", "See: docker compose ps --all")

    def _late(self) -> RuntimeProblem:
        late = sorted(name for name, state in self._told.items() if state != "ready")
        logs = "\n".join(f"{name}:\n{self._log_of(name)}" for name in late[:2])
        return RuntimeProblem(f"Not ready after {READY_SECONDS:.0f} s: {', '.join(late)}.\n{logs}", "orderflow logs")

    def _log_of(self, name: str) -> str:
        service = re.sub(r"-\d+$", "", name)
        return _last_lines(self._compose.run("logs", "--no-color", "--no-log-prefix", "--tail", "8", service).stdout)


def _last_lines(text: str, count: int = 12) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-count:])
