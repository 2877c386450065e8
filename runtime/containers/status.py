"""The state of the parts of a Compose project: from Docker, and from the services' own readiness."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from orderflow.routing import SERVICES
from runtime.containers.docker import Container
from runtime.parts import Part
from runtime.plan import Plan
from runtime.probe import answers

EXPECTED: Final = ("postgres", "localstack", "jaeger", *SERVICES)
"""Parts of every system; workers are optional."""

_STATES: Final = {
    "created": "starting", "restarting": "restarting", "paused": "unready", "dead": "failed", "exited": "stopped",
    "removing": "stopped",
}  # fmt: skip


def parts(plan: Plan, containers: Sequence[Container]) -> list[Part]:
    """Every part: the expected ones, whether they exist or not, then the workers."""
    there = {container.name: container for container in containers}
    names = [*EXPECTED, *sorted(there.keys() - set(EXPECTED) - {"cli"})]
    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        return list(pool.map(lambda name: _part(plan, name, there.get(name)), names))


def _part(plan: Plan, name: str, container: Container | None) -> Part:
    port = plan.port(name) if name in EXPECTED else 0
    running = container is not None and container.status == "running"
    return Part(
        name=name,
        state=_state(plan, name, container) if container else "stopped",
        pid=container.pid if container and running else None,
        port=port,
        uptime=max(0.1, time.time() - container.started) if container and running else 0.0,
        url=f"postgresql://127.0.0.1:{port}" if name == "postgres" else f"http://127.0.0.1:{port}" if port else "",
    )


def _state(plan: Plan, name: str, container: Container) -> str:
    if container.status != "running":
        return _STATES.get(container.status, "failed")
    healthy = container.health in ("healthy", "")
    # Services are probed directly: Docker's health check runs only every few seconds.
    ready = answers(f"{plan.url(name)}/readyz") if name in SERVICES else healthy
    return "ready" if ready else "starting" if container.health == "starting" else "unready"
