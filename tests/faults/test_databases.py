"""FAULTS row 7: each database is unavailable for a while; connections are cut, also in the middle of a COMMIT."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import psutil
import psycopg
import pytest

from orderflow.routing import SERVICES
from tests.support.aims import within
from tests.support.bodies import order_body, valid_body
from tests.support.load import Load, quick, sizes
from tests.support.processes import provider_calls
from tests.support.system import FAULTS, KINDS, System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("faults-system"), pytest.mark.row(7)]


@contextmanager
def administrator(system: System) -> Iterator[psycopg.Connection[Any]]:
    password = json.loads((system.runtime.home.state / "passwords.json").read_text())["postgres"]
    url = f"postgresql://postgres:{password}@127.0.0.1:{system.ports['POSTGRES_PORT']}/postgres"
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


CUT = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"


@contextmanager
def away(system: System, database: str) -> Iterator[None]:
    """One database refuses every connection, and has closed those it had."""
    name = f"orderflow_{database}"
    with administrator(system) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        try:
            connection.execute(CUT, [name])
            yield
        finally:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


def pids(system: System) -> dict[str, list[int]]:
    """The main process and the workers of each service."""
    mains = {service: psutil.Process(system.runtime.pid(service)) for service in SERVICES}
    return {service: [main.pid, *sorted(p.pid for p in main.children())] for service, main in mains.items()}


@pytest.mark.parametrize("database", quick([*SERVICES, "providers"], "order"))
@pytest.mark.parametrize("seconds", sizes(4, 30))
def test_a_database_is_unavailable(
    system: System, seed: int, database: str, seconds: int, measured: Callable[..., None]
) -> None:
    """The service reports it and recovers within 30 s without a restart; waiting orders continue, and nothing is
    dead-lettered."""
    before, calls = pids(system), provider_calls(system)
    with Load(system, KINDS, rate=8, total=8 * (seconds + 3), seed=seed) as load:
        load.until_taken(8)
        with away(system, database):
            ends = time.monotonic() + seconds
            if database != "providers":
                until(lambda: system.http.get(system.url(database, "/readyz")).status_code == 503, 30)
            time.sleep(max(0.0, ends - time.monotonic()))
        back = time.monotonic()
        if database != "providers":
            until(lambda: system.http.get(system.url(database, "/readyz")).status_code == 200, 30)
        measured(away_s=seconds, ready_s=time.monotonic() - back)
        taken = load.finish()
    system.until_terminal(*taken)
    measured(orders=len(taken), terminal_s=time.monotonic() - back)
    system.check(acknowledged=taken)
    assert pids(system) == before, "without a restart"
    system.no_dead_letters()
    unknown = (provider_calls(system) - calls)["unknown"]
    measured(refusal_s=load.slowest_refusal, unknown_calls=unknown)
    assert database != "providers" or unknown, "the fault took effect"
    assert seconds < 30 or load.slowest_refusal <= within(2)


OWN: Final = {"order": "/orders", "inventory": "/stock", "payment": "/payments/", "shipping": "/shipments/",
              "orchestrator": "/sagas"}  # fmt: skip
"""For each service, a route that must be among the tested ones."""
WITHOUT: Final = ("/healthz", "/readyz", "/products")
"""Routes that need no database: one is alive, one names what is unavailable, one caches what it read."""


@pytest.mark.parametrize("service", SERVICES)
def test_without_its_database_a_service_refuses_quickly(
    system: System, service: str, measured: Callable[..., None]
) -> None:
    """Routes that need the database answer 503 with Retry-After within two seconds, three times; none hangs."""
    order_id = system.place()
    system.until_terminal(order_id)
    slowest, tried = 0.0, []
    routes = system.get(service, "/openapi.json")["paths"]
    with away(system, service):
        for path, methods in routes.items():
            if path in WITHOUT or path.startswith("/simulator"):
                continue
            target = system.url(service, path.replace("{order_id}", order_id).replace("{sku}", "BOOK-1"))
            for method, operation in methods.items():
                body = valid_body(operation)
                took = []
                for _ in range(3):
                    began = time.monotonic()
                    answer = system.http.request(method, target, json=body)
                    took.append(time.monotonic() - began)
                    assert answer.status_code == 503, (method, path, answer.text)
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert answer.headers["retry-after"]
                tried.append(path)
                slowest = max(slowest, *took)
                assert max(took) <= within(2), (method, path, took)
    measured(routes=len(tried), refused_s=slowest)
    assert any(path.startswith(OWN[service]) for path in tried)
    until(lambda: system.http.get(system.url(service, "/readyz")).status_code == 200, 30)


def test_without_its_database_many_requests_are_refused_quickly(system: System, measured: Callable[..., None]) -> None:
    """There are more requests at once than threads: each gets its 503 within two seconds, and requests that need no
    database are answered meanwhile."""
    at_once = 2 * int(FAULTS["WEB_THREADS"])

    def refused(_: int = 0) -> float:
        began = time.monotonic()
        assert system.post(order_body()).status_code == 503
        return time.monotonic() - began

    with away(system, "order"), ThreadPoolExecutor(at_once) as pool:
        until(lambda: all(refused() < 1 for _ in range(20)))  # no earlier connection is left
        asked = pool.map(refused, range(5 * at_once))
        began = time.monotonic()
        assert system.http.get(system.url("order", "/healthz")).status_code == 200
        alive_s = time.monotonic() - began
        took = sorted(asked)
    measured(requests=len(took), slowest_s=took[-1], alive_s=alive_s)
    assert alive_s <= within(2)
    assert took[-1] <= within(2), took[-10:]
    until(lambda: system.post(order_body()).status_code == 202, 30)


SLOW_COMMIT = """
CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON inbox DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION linger()
"""
"""Makes a COMMIT take long enough for a connection to be cut in the middle of it."""

AT_COMMIT = """
SELECT count(*) FROM (
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname LIKE 'orderflow_%' AND state = 'active' AND wait_event = 'PgSleep' AND random() < 0.2
) AS cut
"""
ANYWHERE = """
SELECT count(*) FROM (
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'orderflow_%' ORDER BY random() LIMIT 1
) AS cut
"""


@pytest.mark.parametrize("cuts", sizes(20, 100))
def test_connections_are_cut(system: System, seed: int, cuts: int, measured: Callable[..., None]) -> None:
    """Connections are cut in the middle of COMMITs of every service, and elsewhere: each message has one effect."""
    at_commit = anywhere = 0
    for service in SERVICES:
        system.sql(service, SLOW_COMMIT)
    try:
        with (
            administrator(system) as connection,
            Load(system, KINDS, rate=8, total=max(120, 3 * cuts), seed=seed) as load,
        ):
            load.until_taken(1)
            while at_commit < cuts or anywhere < cuts / 4:
                at_commit += connection.execute(AT_COMMIT).fetchall()[0][0]
                if at_commit > 4 * anywhere:
                    anywhere += connection.execute(ANYWHERE).fetchall()[0][0]
                time.sleep(0.05)
                assert not load.done or system.open_orders(), f"only {at_commit} and {anywhere} connections were cut"
            taken = load.finish()
    finally:
        for service in SERVICES:
            system.sql(service, "DROP TRIGGER linger ON inbox; DROP FUNCTION linger")
    print(f"answers {dict(load.answers)}")
    measured(orders=len(taken), cut_at_commit=at_commit, cut_anywhere=anywhere)
    system.until_terminal(*taken)
    system.check(acknowledged=taken)
    system.no_dead_letters()
