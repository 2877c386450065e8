"""FAULTS row 7: databases that hang. Their host accepts what it is sent, but no answer comes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from orderflow.routing import SERVICES
from tests.faults.test_databases import administrator, pids
from tests.support import parts
from tests.support.aims import within
from tests.support.bodies import order_body
from tests.support.load import Load
from tests.support.logs import LoggedSince
from tests.support.system import KINDS, System, until

pytestmark = [
    pytest.mark.slow, pytest.mark.extra, pytest.mark.timeout(600), pytest.mark.xdist_group("faults-system"),
    pytest.mark.row(7),
]  # fmt: skip

_GIVEN_UP = "no answer within"
"""What a service logs when it gives up waiting."""

_TO_CLIENTS = "SELECT pid, application_name FROM pg_stat_activity WHERE datname LIKE 'orderflow_%'"
_LISTENS = "SELECT wait_event = 'ClientRead' FROM pg_stat_activity WHERE pid = %s"


@pytest.mark.parametrize("seconds", [30])
def test_all_databases_hang(system: System, seed: int, seconds: int, measured: Callable[..., None]) -> None:
    """Waiting requests give up; then each request is refused within two seconds, and those that need no database are
    answered. The services recover within 30 s after the database does, without a restart."""
    before = pids(system)
    with Load(system, KINDS, rate=8, total=8 * seconds, seed=seed) as load:
        load.until_taken(8)
        parts.kill(system.runtime, "postgres", signal.SIGSTOP)
        began = time.monotonic()
        try:
            until(lambda: refused(system) <= 2 and refused(system) <= 2, seconds)
            measured(noticed_s=time.monotonic() - began)
            took = [refused(system) for _ in range(5)]
            assert system.http.get(system.url("order", "/healthz")).status_code == 200
            assert max(took) <= within(2), took
            time.sleep(max(0.0, began + seconds - time.monotonic()))
        finally:
            parts.kill(system.runtime, "postgres", signal.SIGCONT)
        back = time.monotonic()
        for service in SERVICES:
            until(lambda name=service: system.http.get(system.url(name, "/readyz")).status_code == 200, 30)
        measured(ready_s=time.monotonic() - back)
        taken = load.finish()
    system.until_terminal(*taken)
    measured(orders=len(taken), terminal_s=time.monotonic() - back, refusal_s=max(took))
    system.check(acknowledged=taken)
    assert pids(system) == before, "without a restart"
    system.no_dead_letters()


def refused(system: System) -> float:
    """Seconds until an order was refused."""
    began = time.monotonic()
    assert system.post(order_body()).status_code == 503
    return time.monotonic() - began


@contextmanager
def hanging(system: System) -> Iterator[dict[int, str]]:
    """Makes every current connection of the services hang; new ones work. Returns each backend's pid and its service.

    Only backends that wait for their client are stopped: others might hold a lock that all of PostgreSQL waits for."""
    stopped: dict[int, str] = {}
    with administrator(system) as connection:
        try:
            for pid, owner in connection.execute(_TO_CLIENTS).fetchall():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    stopped[pid] = owner
                    while connection.execute(_LISTENS, [pid]).fetchall() == [(False,)]:
                        os.kill(pid, signal.SIGCONT)
                        os.kill(pid, signal.SIGSTOP)
            yield stopped
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def left_behind(system: System) -> int:
    """Connections that the client has closed while PostgreSQL still had bytes to read from it: they are in CLOSE_WAIT,
    which is 08, and count one more than their bytes. See proc(5), /proc/net/tcp."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f":{system.ports['POSTGRES_PORT']:04X}"
    return sum(int(row[4].partition(":")[2], 16) > 1 for row in rows if row[1].endswith(port) and row[3] == "08")


def test_connections_hang(system: System, seed: int, measured: Callable[..., None]) -> None:
    """Each service gives up its connections and continues over new ones. What it had sent over the old ones, COMMIT
    included, is carried out when they wake up, long after others have taken over its work: nothing is done twice."""
    before, waking = pids(system), 25.0
    with Load(system, KINDS, rate=8, total=320, seed=seed) as load:
        load.until_taken(40)
        logged = {service: LoggedSince(system, service) for service in SERVICES}
        with hanging(system) as stopped:
            began, already = time.monotonic(), len(load.acknowledged)
            for service in SERVICES:
                until(lambda name=service: logged[name].lines(_GIVEN_UP), 30)
            until(lambda: system.post(order_body()).status_code == 202, 30)
            measured(goes_on_s=time.monotonic() - began)
            load.until_taken(already + 40)
            time.sleep(max(0.0, began + waking - time.monotonic()))
            late = left_behind(system)
        back = time.monotonic()
        taken = load.finish()
    assert set(stopped.values()) >= set(SERVICES), stopped
    assert late >= len(SERVICES), "they were left with statements to carry out"
    system.until_terminal(*taken)
    measured(connections=len(stopped), late=late, orders=len(taken), terminal_s=time.monotonic() - back)
    system.check(acknowledged=taken)
    assert pids(system) == before, "without a restart"
    system.no_dead_letters()
