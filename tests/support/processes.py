"""Runs further processes of a running system's services, and the system with other settings."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from runtime import EmbeddedRuntime
from runtime.home import PROJECT
from tests.support.system import PATIENCE, System, until

PROVIDERS: Final = ("payment", "shipping")
"""Services that call a provider."""


def apply(
    system: System, settings: Mapping[str, str] | None = None, overrides: Mapping[str, Mapping[str, str]] | None = None
) -> None:
    """`up` with further settings, for all services or for single ones. Services whose settings change are restarted
    gracefully.

    `system.runtime.up()` reverts them."""
    ours = {name: str(port) for name, port in system.ports.items()}
    runtime = EmbeddedRuntime(
        system.runtime.home.path, {**system.runtime.plan.settings, **ours, **(settings or {})}, overrides
    )
    runtime.up()
    system.until_ready()


@contextmanager
def workers(
    system: System, service: str, log: Path, *each: Mapping[str, str], before: str = "pass"
) -> Iterator[list[subprocess.Popen[Any]]]:
    """Further processes of a service, without a port: one for each of these additions to the service's environment.

    `before` is Python code that each process runs first; all of them write to `log`."""
    code = f"import sys, orderflow.serve; {before}; sys.exit(orderflow.serve.main([{service!r}]))"
    with log.open("ab") as output:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                env=system.runtime.env(service) | {"ORDERFLOW_ROLE": "worker"} | more,
                cwd=PROJECT, stdout=output, stderr=output,
            )
            for more in each
        ]  # fmt: skip
    try:
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(15)


@contextmanager
def another(system: System, service: str) -> Iterator[None]:
    """One more process of a service, with a log beside the service's own."""
    with workers(system, service, system.runtime.home.log(f"{service}-another"), {}):
        yield


def provider_calls(system: System) -> Counter[str]:
    """Calls of both providers, attempts, and calls without an answer, since the services started to count."""
    found: Counter[str] = Counter()
    for service in PROVIDERS:
        text = system.http.get(system.url(service, "/metrics")).text
        for what, count in re.findall(r'^orderflow_provider_calls_total\{kind="\w+",what="(\w+)"\} (\S+)$', text, re.M):
            found[what] += int(float(count))
    return found


def replaced(system: System, name: str, pid: int, seconds: float = PATIENCE) -> None:
    """Waits until a part has another process than `pid`."""
    until(lambda: system.runtime.pid(name) not in (0, pid), seconds)
