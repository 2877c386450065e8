"""The CLI in its own container, next to those of the system: `docker compose run --rm cli demo`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from orderflow.routing import SERVICES
from runtime.parts import Part
from runtime.plan import PORTS, Plan, make_plan
from runtime.probe import answers
from runtime.problems import RuntimeProblem
from runtime.progress import Report, silent

READY_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class NamedPlan(Plan):
    """A plan whose parts are reached by their service names in the Compose network, at their container ports."""

    def url(self, part: str) -> str:
        return f"http://{part}:{PORTS[f'{part.upper()}_PORT']}"


class AttachedRuntime:
    """The verbs that work from inside the network: inspecting and waiting. The host starts and stops."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._settings = dict(settings or {})

    @property
    def plan(self) -> Plan:
        """The validated settings, with the parts' addresses in the network."""
        plan = make_plan(self._settings)
        return NamedPlan(plan.ports, plan.settings, plan.overrides)

    def running_plan(self) -> Plan:
        """The same as `plan`: the Compose file passes the same settings to this container as to the services."""
        return self.plan

    @property
    def running(self) -> bool:
        """Whether any service answers."""
        return any(part.state == "ready" for part in self.status())

    def up(self, report: Report = silent) -> dict[str, tuple[str, str]]:
        """Waits until every service is ready. Raises RuntimeProblem if that takes more than two minutes."""
        began = time.monotonic()
        for service in SERVICES:
            report(service, "starting", "")
            while not answers(self._ready_url(service)):
                if time.monotonic() - began > READY_SECONDS:
                    raise RuntimeProblem(
                        f"{service} doesn't get ready.",
                        f"On the host: docker compose ps; docker compose logs {service}",
                    )
                time.sleep(0.3)
            report(service, "ready", "")
        return {}

    def down(self) -> bool:
        """Raises RuntimeProblem."""
        self._for_the_host("docker compose down")

    def reset(self) -> None:
        """Raises RuntimeProblem."""
        self._for_the_host("docker compose down --volumes")

    def status(self) -> list[Part]:
        """The services only; a failing database or broker shows in their readiness."""
        plan = self.plan
        return [
            Part(name, "ready" if answers(self._ready_url(name)) else "unready", None,
                 PORTS[f"{name.upper()}_PORT"], 0.0, plan.url(name))
            for name in SERVICES
        ]  # fmt: skip

    def logs(self, name: str) -> str:
        """Raises RuntimeProblem."""
        self._for_the_host(f"docker compose logs {name}")

    def follow(self, name: str, *, from_start: bool = False) -> Callable[[], str]:
        """Raises RuntimeProblem."""
        self._for_the_host(f"docker compose logs --follow {name}")

    def _ready_url(self, service: str) -> str:
        return f"{self.plan.url(service)}/readyz"

    def _for_the_host(self, command: str) -> NoReturn:
        raise RuntimeProblem("This is the command line's own container; it can't do that.", f"On the host: {command}")
