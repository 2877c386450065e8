"""What OpenTelemetry's own variables ask for, and this installation can't do: named at the start, and done without.

Its libraries read most of them by themselves, some while they are imported, and raise there: telemetry must never stop
the business. https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from importlib.metadata import entry_points
from typing import Final

_PROTOCOL: Final = "http/protobuf"
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROPAGATORS: Final = "OTEL_PROPAGATORS"


def do_without(environ: MutableMapping[str, str] | None = None) -> list[str]:
    """Takes out of the environment what can't be done; a sentence about each, with the way out. Call it before the
    settings are read and before any instrumentation is imported."""
    environ = os.environ if environ is None else environ
    return [said for said in (_propagators(environ), _protocol(environ)) if said]


def _propagators(environ: MutableMapping[str, str]) -> str:
    asked = [name.strip() for name in environ.get(_PROPAGATORS, "").split(",")]
    there = {found.name for found in entry_points(group="opentelemetry_propagator")} | {"", "none"}
    missing = [name for name in asked if name not in there]
    if not missing:
        return ""
    before = environ.pop(_PROPAGATORS)
    if kept := [name for name in asked if name in there and name]:
        environ[_PROPAGATORS] = ",".join(kept)
    return (
        f"{_PROPAGATORS}={before!r}: {', '.join(missing)} is not installed; trace contexts are read and written as "
        f"{environ.get(_PROPAGATORS, 'tracecontext,baggage')}. Install its package, or leave the variable out"
    )


def _protocol(environ: MutableMapping[str, str]) -> str:
    name = next((name for name in _PROTOCOLS if environ.get(name)), "")
    if not name or environ[name] == _PROTOCOL:
        return ""
    environ["OTEL_SDK_DISABLED"] = "true"
    return (
        f"{name}={environ[name]!r}: spans are sent by {_PROTOCOL} only, so none are made. "
        f"Leave the variable out, and give the receiver's HTTP port (4318, as a rule) in OTEL_EXPORTER_OTLP_ENDPOINT"
    )
