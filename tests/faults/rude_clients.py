"""How long a customer waits beside rude clients, for several servers in one run: docs/adr/0029-slow-clients.md.

    python -m tests.faults.rude_clients "as it is" "64 threads;WEB_THREADS=64" "before;FOLDER=../before"

Each argument is a name and the differences of its process: variables for it, FOLDER (another checkout of this project,
whose `orderflow.serve` is run), FRONT (a caddy to put in front of it). It runs the complete inventory service, with its
own PostgreSQL and an unavailable broker; it uses loopback only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from tests.support import postgres
from tests.support.ports import free_port
from tests.support.rude import FINISHED, KINDS, Rude, ask

_EACH: Final = 200
_SECONDS: Final = 8.0
_PATIENCE: Final = 4.0
"""Seconds that the customer waits for an answer before giving up."""
_LIMIT: Final = 45.0
"""Seconds to wait for the server to close unfinished connections."""


def main() -> None:
    """Measures the servers that the command line names."""
    print("| server |", " | ".join([*KINDS, "all"]), "| MB, threads | stalled: ended |")
    print("|---|" + "---|" * (len(KINDS) + 3))
    with tempfile.TemporaryDirectory() as folder, postgres.server(Path(folder)) as server:
        for described in sys.argv[1:]:
            name, *settings = described.split(";")
            variables = dict(setting.split("=", 1) for setting in settings)
            cells = []
            url = server.database("inventory")
            for kinds in [*([kind] for kind in KINDS), list(KINDS)]:
                with _running(url, dict(variables)) as (port, process):
                    cells.append(_beside(port, kinds))
                    grown = _size(process)
            with _running(url, dict(variables)) as (port, process):
                ended = _ended(port)
            print(f"| {name} |", " | ".join(cells), f"| {grown} | {ended} |", flush=True)


def _beside(port: int, kinds: list[str]) -> str:
    """The 99th percentile of customers' waiting times for a database row and for /healthz, in seconds."""
    with Rude(port, kinds, _EACH, stays=5) as rude:
        with suppress(AssertionError, OSError):
            rude.all_open(20)
            # Measure from here on: hundreds of requests at one instant are a load, not rudeness.
            ask(port, timeout=_PATIENCE)
        waits = {path: list[float]() for path in ("/stock/BOOK-1", "/healthz")}

        def customer(path: str) -> None:
            ends = time.monotonic() + _SECONDS
            while time.monotonic() < ends:
                began = time.monotonic()
                with suppress(OSError):
                    ask(port, path, _PATIENCE)
                waits[path].append(time.monotonic() - began)
                time.sleep(0.03)

        threads = [threading.Thread(target=customer, args=[path]) for path in waits]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    both = sorted(wait for of_one in waits.values() for wait in of_one)
    silent = sum(wait >= _PATIENCE for wait in both)
    return f"{both[len(both) * 99 // 100]:.3f}" + (f" ({silent} of {len(both)} without an answer)" if silent else "")


def _ended(port: int) -> str:
    """How many of the stalled connections the server closed, and when the last one."""
    stalled = [kind for kind in KINDS if kind not in FINISHED]
    with Rude(port, stalled, 20) as rude:
        with suppress(AssertionError):
            rude.all_open(20)
        ends = time.monotonic() + _LIMIT
        while time.monotonic() < ends and any(rude.open.values()):
            time.sleep(0.2)
        times = [seconds for kind in stalled for seconds in rude.ended[kind]]
    return f"{len(times)} of {20 * len(stalled)}" + (f", {max(times):.0f} s" if times else "")


def _size(process: psutil.Process) -> str:
    worker = process.children()[0]
    return f"{worker.memory_info().rss / 2**20:.0f}, {worker.num_threads()}"


@contextmanager
def _running(url: str, variables: dict[str, str]) -> Iterator[tuple[int, psutil.Process]]:
    port, folder, front = free_port(), variables.pop("FOLDER", "."), variables.pop("FRONT", "")
    environment = os.environ | {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "DATABASE_URL": url, "INVENTORY_PORT": str(port),
        "OTEL_TRACES_EXPORTER": "none", "LOG_LEVEL": "ERROR",
    } | variables  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "orderflow.serve", "inventory"],
            cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
    ]  # fmt: skip
    if front:
        port, behind = free_port(), port
        started.append(_caddy(front, port, behind))
    try:
        ends = time.monotonic() + 120
        while True:
            with suppress(OSError):
                if ask(port, "/stock/BOOK-1", 2) == 200:
                    break
            assert time.monotonic() < ends
            time.sleep(0.1)
        yield port, psutil.Process(started[0].pid)
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _caddy(path: str, port: int, behind: int) -> subprocess.Popen[bytes]:
    handlers = [
        {"handler": "request_body", "max_size": 65536},
        {
            "handler": "reverse_proxy", "upstreams": [{"dial": f"127.0.0.1:{behind}"}],
            "request_buffers": 70_000, "response_buffers": 2_000_000,
        },
    ]  # fmt: skip
    server = {
        "listen": [f"127.0.0.1:{port}"], "read_timeout": "10s", "read_header_timeout": "10s", "write_timeout": "30s",
        "automatic_https": {"disable": True}, "routes": [{"handle": handlers}],
    }  # fmt: skip
    config = {"admin": {"disabled": True}, "apps": {"http": {"servers": {"only": server}}}}
    caddy = subprocess.Popen(
        [path, "run", "--config", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert caddy.stdin
    caddy.stdin.write(json.dumps(config).encode())
    caddy.stdin.close()
    return caddy


if __name__ == "__main__":
    main()
