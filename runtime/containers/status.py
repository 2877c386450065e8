"""How the parts of a compose project are doing: what Docker says, and what the services say themselves."""

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
"""Parts of every system; workers come on top."""

_STATES: Final = {"created": "starting", "restarting": "restarting", "paused": "unready", "dead": "failed"}


def part_name(container: Container) -> str:
    """`payment`, or `payment-worker-2` where there may be several."""
    several = container.service.endswith("-worker")
    return f"{container.service}-{container.number}" if several else container.service


class ContainerParts:
    """Looks at the containers of one system."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def all(self, containers: Sequence[Container]) -> list[Part]:
        """Every part: those expected, there or not, then the workers."""
        there = {part_name(c): c for c in containers}
        names = [*EXPECTED, *sorted(there.keys() - set(EXPECTED) - {"cli"})]
        with ThreadPoolExecutor(max_workers=len(names)) as pool:
            return list(pool.map(lambda name: self.part(name, there.get(name)), names))

    def part(self, name: str, container: Container | None) -> Part:
        """The state of one part."""
        port = self._plan.port(name) if name in EXPECTED else 0
        running = container is not None and container.status == "running"
        return Part(
            name=name,
            state=self._state(name, container),
            pid=container.pid if container is not None and running else None,
            port=port,
            uptime=max(0.1, time.time() - container.started) if container is not None and running else 0.0,
            url=f"postgresql://127.0.0.1:{port}" if name == "postgres" else f"http://127.0.0.1:{port}" if port else "",
        )

    def _state(self, name: str, container: Container | None) -> str:
        if container is None or container.status in ("exited", "removing"):
            return "stopped"
        if container.status != "running":
            return _STATES.get(container.status, "failed")
        if self._ready(name, container):
            return "ready"
        return "starting" if container.health == "starting" else "unready"

    def _ready(self, name: str, container: Container) -> bool:
        if name in SERVICES:  # asked itself: Docker asks every few seconds only
            return answers(f"http://127.0.0.1:{self._plan.port(name)}/readyz")
        return container.health in ("healthy", "")
