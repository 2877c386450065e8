"""The system that `orderflow bench` measures: embedded, in a home of its own, on free ports, deleted afterwards."""

from __future__ import annotations

import fcntl
import random
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final

from lab.lines import Child
from orderflow.routing import SERVICES
from runtime import EmbeddedRuntime, RuntimeProblem
from runtime.embedded.postgres import Postgres
from runtime.embedded.programs import Program
from runtime.home import PROJECT
from runtime.plan import PORTS, Plan
from runtime.progress import Report

HOME: Final = PROJECT / ".orderflow" / "bench"
LOGS_OF_FAILURE: Final = PROJECT / ".orderflow" / "bench-logs"
"""The logs of a run that failed; those of a successful run are deleted with it."""

Starting = AbstractContextManager[Report]

SPANS: Final = ("jaeger", "sink")
"""What may receive spans."""


class BenchRuntime(EmbeddedRuntime):
    """The embedded runtime, with Jaeger only if its cost is measured."""

    jaeger = False

    def _programs(self, plan: Plan, postgres: Postgres) -> list[Program]:
        return [p for p in super()._programs(plan, postgres) if self.jaeger or p.name != "jaeger"]


class BenchSystem:
    """See `lab.system.Traceable`. Services run with their default settings, whatever the user's are."""

    def __init__(self, settings: Mapping[str, str], receiver: str | None) -> None:
        self._ports = _free_ports()
        self.settings = dict(settings)
        self._receiver = receiver
        self._sink: Child | None = None
        self.runtime = self._runtime(tracing=False)
        self.folder = self.runtime.home.logs

    @property
    def long_poll(self) -> int:
        return int(self.settings.get("LONG_POLL", "20"))

    @property
    def spans_go_to(self) -> str:
        return {"jaeger": "Jaeger on this machine", "sink": "a sink that discards them"}.get(self._receiver or "", "-")

    def url(self, part: str) -> str:
        return self.runtime.plan.url(part)

    def database(self, name: str) -> str:
        service, variable = ("payment", "PROVIDERS_DATABASE_URL") if name == "providers" else (name, "DATABASE_URL")
        return self.runtime.env(service)[variable]

    def pids(self) -> Mapping[str, int]:
        names = ("localstack", "postgres", *SERVICES, *(["jaeger"] if self.runtime.jaeger else []))
        return {name: pid for name in names if (pid := self.runtime.pid(name))}

    def trace(self, on: bool) -> None:
        if on and self._receiver == "sink" and self._sink is None:
            self._sink = Child("sink", "lab.sink", [self._ports["OTLP_HTTP_PORT"]], self.folder / "sink.log")
            self._sink.ask("received")
        self.runtime = self._runtime(tracing=on)
        self.runtime.up()
        time.sleep(self.long_poll + 1)  # the polls of the previous processes have ended, and take no more messages

    def close(self) -> None:
        """Ends everything and deletes its data and logs."""
        if self._sink is not None:
            self._sink.end()
        self.runtime.reset()

    def _runtime(self, *, tracing: bool) -> BenchRuntime:
        overrides = {}
        if self._receiver == "sink":
            endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._ports['OTLP_HTTP_PORT']}"}
            overrides = dict.fromkeys(SERVICES, endpoint)
        switch = {"OTEL_SDK_DISABLED": "false" if tracing else "true"}
        made = BenchRuntime(HOME, {**self._ports, **self.settings, **switch}, overrides)
        made.jaeger = self._receiver == "jaeger"
        return made


@contextmanager
def alone() -> Iterator[None]:
    """One bench at a time in this clone. Raises RuntimeProblem."""
    HOME.parent.mkdir(parents=True, exist_ok=True)
    with HOME.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeProblem(
                "Another bench is running; two would disturb each other.", "Wait for it to end."
            ) from None
        yield


@contextmanager
def running(
    settings: Mapping[str, str], receiver: str | None, starting: Starting, stopping: AbstractContextManager[object]
) -> Iterator[BenchSystem]:
    """A fresh system, which is deleted afterwards, however this ends. It starts within `starting`, which yields the
    progress callback, and stops within `stopping`."""
    system = BenchSystem(settings, receiver)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        shutil.rmtree(LOGS_OF_FAILURE, ignore_errors=True)
        system.runtime.reset()  # an earlier run may have left data
        system.runtime.home.make()
        with starting as report:
            system.runtime.up(report)
        yield system
    except Exception:
        shutil.copytree(system.folder, LOGS_OF_FAILURE, dirs_exist_ok=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        with stopping:
            system.close()


def receiver(asked: str | None) -> str:
    """The receiver of spans. Raises RuntimeProblem."""
    there = shutil.which("jaeger") is not None and (PROJECT / "otel" / "jaeger.yaml").exists()
    if asked == "jaeger" and not there:
        raise RuntimeProblem("There is no jaeger on PATH.", "Install it, or discard the spans: --spans sink")
    return asked or ("jaeger" if there else "sink")


def _free_ports() -> dict[str, str]:
    """Free ports below those that the operating system gives to clients, so that none is taken meanwhile."""
    found: dict[str, str] = {}
    names = list(PORTS)
    with ExitStack() as held:
        while len(found) < len(names):
            port = random.randrange(15000, 32000)
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            found[names[len(found)]] = str(port)
    return found
