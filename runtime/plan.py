"""Validates the user's settings and decides what is passed to each process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orderflow.errors import ConfigurationError
from orderflow.routing import SERVICES
from orderflow.settings import Settings, load
from runtime.env_file import read
from runtime.home import PROJECT
from runtime.problems import RuntimeProblem

PORTS: Final[Mapping[str, int]] = {
    **{f"{service.upper()}_PORT": 8001 + number for number, service in enumerate(SERVICES)},
    "LOCALSTACK_PORT": 4566,
    "POSTGRES_PORT": 15432,
    "JAEGER_PORT": 16686,
    "OTLP_GRPC_PORT": 4317,
    "OTLP_HTTP_PORT": 4318,
}
"""Default ports, by the variable that overrides them."""

_OURS: Final = {
    *PORTS, "AWS_ENDPOINT_URL", "AWS_REGION", "DATABASE_URL", "PROVIDERS_DATABASE_URL", "ORCHESTRATOR_URL",
    "ORDERFLOW_ENV", "ORDERFLOW_BIND",
}  # fmt: skip
"""Settings that the runtime derives itself; a value of the user's would break the system."""

_PASSED_ON: Final = ({name.upper() for name in Settings.model_fields} | {"JAEGER_URL"}) - _OURS
_SECRET: Final = {n.upper() for n, f in Settings.model_fields.items() if "SecretStr" in str(f.annotation)}
_DEFAULTS: Final = {"WORKFLOW_MODE": "choreography", "EVENT_BUS": "sns"}


@dataclass(frozen=True, slots=True)
class Plan:
    """The validated settings of one system."""

    ports: Mapping[str, int]
    settings: Mapping[str, str]
    """Passed to every service: what the user set, and always the workflow and the event bus."""
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Additional settings for single services, by name (tests)."""

    @property
    def workflow(self) -> str:
        return self.settings["WORKFLOW_MODE"]

    @property
    def event_bus(self) -> str:
        return self.settings["EVENT_BUS"]

    def port(self, part: str) -> int:
        return self.ports[f"{part.upper()}_PORT"]

    def url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.port(part)}"

    def visible(self) -> dict[str, str]:
        """Every setting in a form that may be displayed and stored: secrets as a digest."""
        shown = {name: str(port) for name, port in self.ports.items()}
        for name, value in self.settings.items():
            secret = name in _SECRET or name.endswith("_HEADERS")
            shown[name] = f"(secret {hash_of(value)})" if secret else value
        return shown


def hash_of(text: str) -> str:
    """A short digest that shows that a secret changed without revealing it."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def user_settings(environ: Mapping[str, str] | None = None, env_file: Path | None = None) -> dict[str, str]:
    """The environment, which wins over the project's `.env`. Raises RuntimeProblem if that can't be read."""
    path = PROJECT / ".env" if env_file is None else env_file
    return read(path) | dict(os.environ if environ is None else environ)


def make_plan(values: Mapping[str, str], overrides: Mapping[str, Mapping[str, str]] | None = None) -> Plan:
    """Validates the settings in `values`, ignores other variables. RuntimeProblem names setting and choices."""
    ports = {name: _port(name, values.get(name) or str(default)) for name, default in PORTS.items()}
    _distinct(ports)
    passed_on = [name for name in sorted(values) if name in _PASSED_ON or name.startswith("OTEL_")]
    settings = _DEFAULTS | {name: values[name] for name in passed_on if values[name] != ""}
    try:
        load(
            **{n.lower(): v for n, v in settings.items() if n.lower() in Settings.model_fields},
            aws_endpoint_url="http://x",
        )
    except ConfigurationError as error:
        raise RuntimeProblem(str(error), "Correct it in the environment or in .env, then try again.") from error
    return Plan(ports, settings, overrides or {})


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The differences, as setting → (old, new); "default" if it wasn't or isn't set."""
    return {
        name: (old.get(name, "default"), new.get(name, "default"))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def _port(name: str, value: str) -> int:
    if value.isascii() and value.isdigit() and 1 <= int(value) <= 65535:
        return int(value)
    raise RuntimeProblem(f"{name}={value!r} is not a port.", "Set it to a number from 1 to 65535.")


def _distinct(ports: Mapping[str, int]) -> None:
    owner: dict[int, str] = {}
    for name, port in ports.items():
        if port in owner:
            raise RuntimeProblem(f"{owner[port]} and {name} are both {port}.", "Give each a port of its own.")
        owner[port] = name
