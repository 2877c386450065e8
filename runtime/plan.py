"""From the user's settings to what each process is given."""

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
"""Every port, by the variable that changes it."""

_OURS: Final = {
    *PORTS, "AWS_ENDPOINT_URL", "AWS_REGION", "DATABASE_URL", "PROVIDERS_DATABASE_URL", "ORCHESTRATOR_URL",
    "ORDERFLOW_ENV", "ORDERFLOW_BIND",
}  # fmt: skip
"""Settings that follow from where the parts run; a user's value would only break the system."""

_PASSED_ON: Final = ({name.upper() for name in Settings.model_fields} | {"JAEGER_URL"}) - _OURS
_SECRET: Final = {n.upper() for n, f in Settings.model_fields.items() if "SecretStr" in str(f.annotation)}
_DEFAULTS: Final = {"WORKFLOW_MODE": "choreography", "EVENT_BUS": "sns"}


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of one system, checked."""

    ports: Mapping[str, int]
    settings: Mapping[str, str]
    """Passed to every service: what the user set, and the workflow and bus in any case."""
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """More for single services, by name (tests)."""

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
        """Every setting as it may be shown and kept: secrets as a digest."""
        shown = {name: str(port) for name, port in self.ports.items()}
        for name, value in self.settings.items():
            secret = name in _SECRET or name.endswith("_HEADERS")
            shown[name] = f"(secret {hash_of(value)})" if secret else value
        return shown


def hash_of(text: str) -> str:
    """A short digest, to see that something changed without showing it."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def user_settings(environ: Mapping[str, str] | None = None, env_file: Path | None = None) -> dict[str, str]:
    """The environment over the project's `.env`. Raises RuntimeProblem where that can't be read."""
    path = PROJECT / ".env" if env_file is None else env_file
    return read(path) | dict(os.environ if environ is None else environ)


def make_plan(values: Mapping[str, str], overrides: Mapping[str, Mapping[str, str]] | None = None) -> Plan:
    """Checks the settings in `values` (others are ignored). Raises RuntimeProblem that names setting and choices."""
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
    """What differs, as setting → (old, new); "default" where it wasn't or isn't set."""
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
