"""Changes the process's environment for third-party libraries: removes variables that they must not read.

Besides `orderflow.settings`, only this module uses the environment. Call it before those libraries are imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, MutableMapping
from importlib.metadata import entry_points
from typing import Final
from urllib.parse import urlsplit

from orderflow.settings import Settings

_PROTOCOL: Final = "http/protobuf"
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROPAGATORS: Final = "OTEL_PROPAGATORS"


def seal_aws(settings: Settings, environ: MutableMapping[str, str] | None = None) -> None:
    """Locally, removes all that could lead an AWS client to a real account, and sets test credentials instead."""
    environ = os.environ if environ is None else environ
    if settings.orderflow_env != "local":
        return
    for name in [n for n in environ if n.startswith("AWS_")]:
        del environ[name]
    test_account = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": settings.aws_region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    environ.update(test_account)


def seal_libpq(environ: MutableMapping[str, str] | None = None) -> None:
    """Removes variables that lead libpq elsewhere or require what a local database lacks (PGSERVICE, PGSSLMODE …).
    https://www.postgresql.org/docs/current/libpq-envars.html"""
    environ = os.environ if environ is None else environ
    for name in [n for n in environ if n.startswith("PG")]:
        del environ[name]


def prefer_stable_http_conventions(environ: MutableMapping[str, str] | None = None) -> None:
    """Makes OpenTelemetry's libraries use the stable names of its HTTP conventions, unless the user chose otherwise."""
    (os.environ if environ is None else environ).setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")


def do_without(environ: MutableMapping[str, str] | None = None) -> list[str]:
    """Removes OpenTelemetry variables that ask for something this installation can't do. Returns a sentence about each,
    with the way out. OpenTelemetry's libraries read most variables themselves, some during import, and raise: but
    telemetry must never stop the business. Call it before the settings are read.
    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/"""
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


_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def bypass_proxies(urls: Iterable[str | None], environ: MutableMapping[str, str] | None = None) -> None:
    """Excludes these URLs' hosts and this machine from HTTP_PROXY: Docker's client configuration sets that variable in
    containers, often without NO_PROXY. https://docs.docker.com/engine/cli/proxy/"""
    environ = os.environ if environ is None else environ
    known = [part.strip() for name in ("no_proxy", "NO_PROXY") for part in environ.get(name, "").split(",")]
    hosts = [urlsplit(url).hostname or "" for url in urls if url]
    together = ",".join(dict.fromkeys(part for part in (*known, *hosts, *_LOOPBACK) if part))
    environ["no_proxy"] = environ["NO_PROXY"] = together  # some libraries prefer one, some the other
