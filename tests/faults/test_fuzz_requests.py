"""FAULTS row 15: arbitrary input to a route is refused quickly, and the next order succeeds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import psutil
import pytest

from orderflow.routing import SERVICES
from orderflow.web.parsing import MAX_BODY
from tests.support.bodies import valid_body
from tests.support.fuzz import MEGABYTES, Fuzzer, megabytes
from tests.support.load import sizes
from tests.support.raw_http import exchange
from tests.support.system import KINDS, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.row(15)]


@pytest.mark.xdist_group("faults-system")
@pytest.mark.parametrize("count", sizes(150, 10_000))
@pytest.mark.parametrize("service", SERVICES)
def test_no_request_breaks_a_service(
    system: System, seed: int, service: str, count: int, measured: Callable[..., None]
) -> None:
    """Many bodies for each route that takes one, and a tenth as many addresses for each that doesn't: there is no 5xx,
    refusals are problem+json, none takes a second, the memory doesn't grow, and the next order succeeds."""
    fuzzer = Fuzzer(seed)
    order_id = system.place()
    assert system.until_terminal(order_id) == ["CONFIRMED"]
    processes = [psutil.Process(system.runtime.pid(service))]
    processes += processes[0].children(recursive=True)
    before = sum(map(megabytes, processes))
    statuses: Counter[int] = Counter()
    times: list[float] = []
    routes = again = 0
    for path, methods in system.get(service, "/openapi.json")["paths"].items():
        for method, operation in methods.items():
            if "requestBody" in operation:
                routes += 1
                valid = valid_body(operation)
                # No such SKU exists: a request that happens to be valid must not change the stock.
                target = path.replace("{order_id}", order_id).replace("{sku}", "NOPE-1")
                requests = (fuzzer.request(method.upper(), target, valid) for _ in range(count))
            else:
                names = [parameter["name"] for parameter in operation.get("parameters", ())]
                requests = (_bare(method.upper(), fuzzer.target(path, names)) for _ in range(count // 10))
            for request in requests:
                status, took = _ask(system, service, request)
                statuses[status] += 1
                times.append(min(took))
                again += len(took) - 1
    grown = sum(map(megabytes, processes)) - before
    refused = sum(n for status, n in statuses.items() if status >= 400)
    measured(
        body_routes=routes, requests=len(times), refused=refused, slowest_ms=round(max(times) * 1000),
        grown_mb=round(grown), asked_again=again,
    )  # fmt: skip
    assert count < 10_000 or not again, "no answer took a second, not even once"
    assert refused > len(times) / 3
    assert grown < MEGABYTES
    for provider in ("payment", "shipping"):
        system.http.put(system.url(provider, "/simulator/faults"), json={})
    placed = [i for (i,) in system.sql("order", "SELECT id::text FROM orders")]
    system.until_terminal(*placed)
    assert set(system.until_terminal(*(system.place(kind) for kind in KINDS))) == {"CONFIRMED"}
    system.check(acknowledged=placed)


def _bare(method: str, target: str) -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def _ask(system: System, service: str, request: bytes) -> tuple[int, list[float]]:
    """The status and the seconds of one request, which is repeated up to twice if it takes a second (the machine may
    have other work). A wrong answer fails the test and shows the request."""
    took = []
    while True:
        began = time.monotonic()
        answer = exchange(system.ports[f"{service.upper()}_PORT"], request)
        took.append(time.monotonic() - began)
        shown = f"{request[:2000]!r} → {answer[:500]!r}"
        if not answer:
            # The server answers a body that is too long without reading all of it; the reset may overtake the answer.
            assert len(request) > MAX_BODY, shown
            return 413, took
        heading = answer.partition(b"\r\n\r\n")[0].lower()
        status = int(heading.split(maxsplit=2)[1])
        assert status < 500, shown
        assert (b"content-type: application/problem+json" in heading) == (status >= 400), shown
        if took[-1] < 1:
            return status, took
        assert len(took) < 3, f"took {took} s: {shown}"
