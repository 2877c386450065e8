"""LocalStack with its stack, PostgreSQL and (if available) Jaeger for tests: one interface, two providers.

`ORDERFLOW_TEST_INFRA` chooses the provider (tests.support.engine). Both give the same: the stack of
`localstack/stack.yaml`, a database and a role for each service, everything on free loopback ports.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psutil

from runtime.embedded import localstack
from runtime.embedded.leftovers import end, find
from runtime.embedded.postgres import Postgres
from runtime.embedded.programs import jaeger
from runtime.embedded.supervisor import Supervisor
from runtime.home import Home
from runtime.plan import make_plan
from runtime.probe import answers
from tests.support.engine import provider
from tests.support.ports import free_ports
from tests.support.system import until

PARTS = ("localstack", "postgres", "jaeger")


class Infrastructure(Protocol):
    """The infrastructure that services need. Its parts are called localstack, postgres and jaeger."""

    broker_url: str
    """LocalStack's URL; the stack is deployed."""
    database_urls: dict[str, str]
    """Database URLs by service, and that of the `providers`; each role reaches only its own database."""
    otlp_url: str | None
    """Where to send spans over OTLP/HTTP; None if there is no Jaeger."""
    jaeger_url: str | None
    """Jaeger's HTTP API."""

    def stop(self, part: str) -> None:
        """Stops a part gracefully; it stays down until `start`."""

    def start(self, part: str) -> None:
        """Starts a stopped part at its old address; returns when it is ready."""

    def ready(self, part: str) -> bool:
        """Whether a part works."""

    def kill(self, part: str) -> None:
        """Kills a part and restarts it; returns when it is ready. LocalStack comes back empty, but with its stack;
        PostgreSQL comes back with everything that was committed."""

    def close(self) -> None:
        """Stops and removes everything."""


@contextmanager
def infrastructure(folder: Path, name: str | None = None) -> Iterator[Infrastructure]:
    """Running infrastructure of the named or chosen provider; `folder` holds its files."""
    made: Infrastructure
    if (name or provider()) == "containers":
        from tests.support.infrastructure_containers import ContainerInfrastructure  # needs testcontainers

        made = ContainerInfrastructure()
    else:
        made = EmbeddedInfrastructure(folder)
    try:
        yield made
    finally:
        made.close()


class EmbeddedInfrastructure:
    """Infrastructure from PyPI's packages, under the embedded runtime's supervisor, without any service."""

    def __init__(self, folder: Path) -> None:
        self._plan = make_plan(free_ports())
        self._home = Home.at(folder / "infrastructure")
        self._home.make()
        self._postgres = Postgres(self._home, self._plan.port("postgres"))
        self._supervisor = Supervisor(self._home)
        self.broker_url = self._plan.url("localstack")
        binary = shutil.which("jaeger")
        self.jaeger_url = self._plan.url("jaeger") if binary else None
        self.otlp_url = f"http://127.0.0.1:{self._plan.ports['OTLP_HTTP_PORT']}" if binary else None
        try:
            self._start(binary)
        except BaseException:
            self.close()
            raise
        urls = self._postgres.urls()
        self.database_urls = {name.removeprefix("orderflow_"): url for name, url in urls.items()}

    def _start(self, binary: str | None) -> None:
        if not localstack.installed():
            localstack.install()
        self._postgres.prepare()
        programs = [self._postgres.program(), localstack.program(self._home, self._plan)]
        if binary:
            programs.append(jaeger(self._plan, binary, self._home))
        self._supervisor.write(programs)
        self._supervisor.start_daemon({"PATH": os.environ["PATH"], "HOME": str(self._home.run)})
        for program in programs:
            self._supervisor.start(program.name)
        for program in programs:
            self._until_ready(program.name)
        self._postgres.create_databases()

    def stop(self, part: str) -> None:
        self._supervisor.stop([part])

    def start(self, part: str) -> None:
        self._supervisor.start(part)
        self._until_ready(part)

    def kill(self, part: str) -> None:
        pid = self._supervisor.processes()[part].pid
        main = psutil.Process(pid)
        for process in (main, *main.children(recursive=True)):
            process.send_signal(signal.SIGKILL)
        until(lambda: self._supervisor.processes()[part].pid not in (0, pid))
        self._until_ready(part)

    def close(self) -> None:
        self._supervisor.stop(PARTS)
        self._supervisor.shutdown()
        end(find(self._home, self._postgres.data))
        self._postgres.remove()

    def ready(self, part: str) -> bool:
        checks = {
            "postgres": self._postgres.answers,
            "localstack": lambda: localstack.ready(self._plan),
            "jaeger": lambda: answers(f"{self.jaeger_url}/api/services"),
        }
        return checks[part]()

    def _until_ready(self, part: str) -> None:
        until(lambda: self.ready(part), what=lambda: f"{part}: {_tail(self._home.log(part))}")


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:] if path.exists() else "no log"
