"""Starts a system: each part after its dependencies, independent parts in parallel."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Final

from orderflow.routing import SERVICES
from runtime.embedded import localstack
from runtime.embedded.postgres import Postgres
from runtime.embedded.status import ServiceProbe
from runtime.embedded.supervisor import Supervisor
from runtime.home import Home
from runtime.plan import Plan
from runtime.problems import RuntimeProblem
from runtime.progress import Report

READY_SECONDS: Final = 120.0
"""Timeout for one part, from its start. LocalStack needs 5 s with its stack, 11 s on its first run, when it is
compiled and builds its index, and took 52 s on two cores with a load of 11."""
_DEATHS_TOLERATED: Final = 2
_POLL_SECONDS: Final = 0.1


class _Cancelled(Exception):
    """Another part failed; that part's problem is raised instead."""


class Start:
    """Starts every part that isn't running: PostgreSQL before the services, LocalStack in parallel."""

    def __init__(self, supervisor: Supervisor, postgres: Postgres, plan: Plan, home: Home, report: Report) -> None:
        self._supervisor = supervisor
        self._postgres = postgres
        self._plan = plan
        self._home = home
        self._report = report
        self._probe = ServiceProbe(plan, postgres)
        self._cancelled = threading.Event()
        self._localstack_started = threading.Event()
        self._localstack_ready = threading.Event()
        self._deaths: dict[str, set[float]] = {}
        """Start times of the processes that have ended, by part."""

    def all(self) -> None:
        """Returns when all parts are ready. Raises the first RuntimeProblem and cancels the other waits."""
        parts = self._supervisor.processes().keys()
        with ThreadPoolExecutor(max_workers=4, thread_name_prefix="start") as pool:
            jobs = [pool.submit(self._localstack), pool.submit(self._postgres_and_services)]
            if "jaeger" in parts:
                jobs.append(pool.submit(self._part, "jaeger"))
            try:
                wait(jobs, return_when=FIRST_EXCEPTION)
            finally:
                if not all(job.done() and job.exception() is None for job in jobs):
                    self._cancelled.set()
        errors = [e for job in jobs if (e := job.exception()) is not None]
        for error in sorted(errors, key=lambda e: isinstance(e, _Cancelled)):
            raise error

    def _localstack(self) -> None:
        if not localstack.installed():
            self._report("localstack", "installing", "its own environment, 300 MB, once")
            localstack.install()
        self._report("localstack", "starting", "and deploying the stack")
        began = time.monotonic()
        self._supervisor.start("localstack")
        self._localstack_started.set()
        self._await("localstack", began)
        self._localstack_ready.set()

    def _postgres_and_services(self) -> None:
        self._report("postgres", "preparing", "")
        self._postgres.prepare()
        self._part("postgres")
        self._postgres.create_databases()
        self._wait_for(self._localstack_started)  # during its installation they could only wait
        began = time.monotonic()
        for service in SERVICES:
            self._supervisor.start(service)
            self._report(service, "starting", "")
        self._wait_for(self._localstack_ready, SERVICES)
        allowed = time.monotonic() - began + READY_SECONDS
        for service in SERVICES:
            self._await(service, began, allowed)

    def _part(self, name: str, detail: str = "") -> None:
        self._report(name, "starting", detail)
        began = time.monotonic()
        self._supervisor.start(name)
        self._await(name, began)

    def _wait_for(self, event: threading.Event, watched: Iterable[str] = ()) -> None:
        while not event.wait(_POLL_SECONDS):
            self._check_alive(*watched)
            if self._cancelled.is_set():
                raise _Cancelled

    def _await(self, name: str, began: float, allowed: float = READY_SECONDS) -> None:
        while why := self._probe.refusal(name):
            self._check_alive(name)
            if time.monotonic() - began > allowed:
                raise self._problem(name, f"isn't ready after {allowed:.0f} s: {why}")
            if self._cancelled.wait(_POLL_SECONDS):
                raise _Cancelled
        self._report(name, "ready", f"{time.monotonic() - began:.1f} s")

    def _check_alive(self, *names: str) -> None:
        processes = self._supervisor.processes() if names else {}
        for name in names:
            process = processes.get(name)
            if process is None or process.state not in ("BACKOFF", "EXITED", "FATAL"):
                continue
            deaths = self._deaths.setdefault(name, set())
            deaths.add(process.started)
            if len(deaths) > _DEATHS_TOLERATED or process.state == "FATAL":
                raise self._problem(name, "ends as soon as it is started")

    def _problem(self, name: str, what: str) -> RuntimeProblem:
        log = self._home.log(name)
        text = log.read_text(errors="replace") if log.exists() else ""
        last = "\n".join(f"  {line}" for line in text.splitlines()[-8:])
        return RuntimeProblem(f"{name} {what}.\n{last}".rstrip(), f"Its whole log: {log}")
