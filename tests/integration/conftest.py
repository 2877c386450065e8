"""Two real systems for all integration tests of a test process: one stays as it is, the other is stopped and killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import psycopg
import pytest

from runtime import EmbeddedRuntime
from runtime.embedded import leftovers
from tests.support.begun import begin
from tests.support.engine import provider
from tests.support.system import System, running, until

SETTINGS = {
    # LocalStack continues the long poll of a consumer that has ended, and delivers messages to it: keep polls short.
    "LONG_POLL": "1",
    # Tests wait for such messages and for restarted parts: short times, but longer than any provider takes.
    "VISIBILITY": "10",
    "HEARTBEAT": "3",
    "LEASE": "4",
    "FAILURES_UNTIL_PARKED": "3",
    "PROVIDER_TIMEOUT": "1",
    "RESEND_AFTER": "5,10,20",
    "UNDO_RESEND_EVERY": "5",
    "WEB_THREADS": "16",
}

IMPATIENT = {
    "LONG_POLL": "1",
    "VISIBILITY": "4",
    "HEARTBEAT": "1",
    "RESEND_AFTER": "2,4,6",
    "UNDO_AFTER": "10",
    "UNDO_RESEND_EVERY": "2",
    "UNDO_ATTEMPTS": "4",
}
"""The owners' times shortened, so that what is late soon has consequences."""


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """All five services, LocalStack and PostgreSQL, as `orderflow up` runs them. Each test leaves it intact."""
    with running(tmp_path_factory.mktemp("system"), SETTINGS) as made:
        yield made


@dataclass
class Crash:
    """An earlier run of a system, which crashed, and what the start after it said."""

    left: list[psutil.Process] = field(default_factory=list)
    """Its processes, the supervisor first."""
    supervisor: list[str] = field(default_factory=list)
    """The command of the first one."""
    reports: list[tuple[str, str, str]] = field(default_factory=list)

    def up(self, runtime: EmbeddedRuntime) -> None:
        """Begins a run of a few parts, with data; kills its supervisor, and PostgreSQL as a power cut would; starts."""
        begin(runtime, "order")
        until(lambda: runtime.pid("order"))
        with psycopg.connect(runtime.env("order")["DATABASE_URL"], autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (id int)")
        data = runtime._postgres().data
        self.left = leftovers.find(runtime.home, data)
        self.supervisor = self.left[0].cmdline()
        server = psutil.Process(runtime.pid("postgres"))
        for process in (self.left[0], server, *server.children()):
            os.kill(process.pid, signal.SIGKILL)
        until(lambda: not runtime.running and not server.is_running())
        # The pid that the server left behind may be another program's by now.
        (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n")
        runtime.up(lambda *report: self.reports.append(report))


@pytest.fixture(scope="session")
def crash() -> Crash:
    """What `own_system` found when it was started."""
    return Crash()


@pytest.fixture(scope="session")
def own_system(tmp_path_factory: pytest.TempPathFactory, crash: Crash) -> Iterator[System]:
    """Another one, with short times, for the tests of the group "runtime", which stop, kill and change it. It is first
    started after a crash. Each test makes it what it needs: a start takes 20 s of CPU."""
    start = crash.up if provider() == "embedded" else EmbeddedRuntime.up
    with running(tmp_path_factory.mktemp("own-system"), IMPATIENT, start) as made:
        yield made


@pytest.fixture
def as_set(own_system: System) -> EmbeddedRuntime:
    """The runtime of `own_system`, which is up with its own settings."""
    runtime = own_system.runtime
    if not runtime.running or runtime._applied() != runtime.plan.visible():
        runtime.up()
    return runtime
