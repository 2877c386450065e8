"""The processes of a system, as data for supervisord."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orderflow.routing import SERVICES
from runtime.home import PROJECT, Home
from runtime.plan import Plan

STOP_SECONDS: Final = 10
"""A service finishes the work in flight within this time; then it is killed."""


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = PROJECT
    user: str | None = None
    """The user to run as; None for the supervisor's."""
    stop_signal: str = "TERM"

    def environment_file(self) -> str:
        """A shell script that exports the environment (supervisord's own syntax can't hold every value)."""
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(self.environment.items()))

    def digest(self) -> str:
        """Changes with the environment, so that the supervisor detects a changed program."""
        return hashlib.sha256(self.environment_file().encode()).hexdigest()[:16]


def service_environment(plan: Plan, service: str, database_urls: Mapping[str, str], tracing: bool) -> dict[str, str]:
    """The variables that `orderflow.settings` reads in the process of `service`."""
    environment = {
        **plan.settings,
        f"{service.upper()}_PORT": str(plan.port(service)),
        "ORDERFLOW_ENV": "local",
        "ORDERFLOW_BIND": "127.0.0.1",
        "AWS_ENDPOINT_URL": plan.url("localstack"),
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "DATABASE_URL": database_urls[f"orderflow_{service}"],
        "PYTHONUNBUFFERED": "1",
    }
    if service in ("payment", "shipping"):
        environment["PROVIDERS_DATABASE_URL"] = database_urls["orderflow_providers"]
    if service == "order":
        environment["ORCHESTRATOR_URL"] = plan.url("orchestrator")
    if tracing:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{plan.ports['OTLP_HTTP_PORT']}"
        environment.setdefault("JAEGER_URL", plan.url("jaeger"))
    return {**environment, **plan.overrides.get(service, {})}


def services(plan: Plan, database_urls: Mapping[str, str], tracing: bool) -> list[Program]:
    """The five services, each with its own gunicorn."""
    return [
        Program(
            name=service,
            command=(sys.executable, "-m", "orderflow.serve", service),
            environment=service_environment(plan, service, database_urls, tracing),
        )
        for service in SERVICES
    ]


def jaeger(plan: Plan, binary: str, home: Home) -> Program:
    """Jaeger, if it is installed."""
    return Program(
        name="jaeger",
        command=(binary, "--config", str(PROJECT / "otel" / "jaeger.yaml")),
        environment={n: str(plan.ports[n]) for n in ("JAEGER_PORT", "OTLP_GRPC_PORT", "OTLP_HTTP_PORT")},
        folder=home.run,
        # Traces are in memory only, so there is nothing to save, and it takes more than 10 s to end on SIGTERM.
        stop_signal="KILL",
    )
