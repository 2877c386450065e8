"""How a service starts and stops: messages for people, and the parts that need no broker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from orderflow import failpoints
from orderflow.errors import ConfigurationError
from orderflow.serve import listen, main
from orderflow.settings import Settings
from tests.support.rude import KINDS, Rude, ask

PROJECT = Path(__file__).parents[3]
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


def environment(**settings: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "VIRTUAL_ENV", "TMPDIR") if name in os.environ}
    return kept | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "DATABASE_URL": NOWHERE} | settings


def serve(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orderflow.serve", *arguments],
        cwd=PROJECT, env=environment(**settings), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


@contextmanager
def serving(**settings: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "orderflow.serve", "inventory"],
        cwd=PROJECT, env=environment(**settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def free_port() -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return str(found.getsockname()[1])


def answer(port: str, path: str, process: subprocess.Popen[str]) -> httpx.Response:
    ends = time.monotonic() + 20
    while True:
        try:
            return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5)
        except httpx.TransportError:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < ends
            time.sleep(0.1)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """What to run, what to set, how it ends."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for word in ("inventory", "DATABASE_URL", "ORDERFLOW_ROLE", "SIGTERM", "Exit status"):
        assert word in printed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"WORKFLOW_MODE": "magic"}, ["WORKFLOW_MODE", "magic", "choreography", "orchestration"]),
        ({"EVENT_BUS": "kafka"}, ["EVENT_BUS", "kafka", "sns", "eventbridge"]),
        ({"AWS_ENDPOINT_URL": ""}, ["AWS_ENDPOINT_URL"]),
        ({"DATABASE_URL": ""}, ["DATABASE_URL"]),
        ({"DATABASE_URL": "postgresql://u:p@[::1/x"}, ["DATABASE_URL can't be read", "user:password@host"]),
        ({"PROVIDERS_DATABASE_URL": "mysql://x"}, ["PROVIDERS_DATABASE_URL can't be read"]),
        ({"CRASH_AT": "nowhere"}, ["CRASH_AT", "commit.before"]),
        ({"CRASH_AT": "commit.before:x"}, ["CRASH_AT", "commit.before:3"]),
        ({"INVENTORY_PORT": "99999"}, ["INVENTORY_PORT", "99999"]),
        ({"WEB_THREADS": "many"}, ["WEB_THREADS", "many"]),
        ({"ORDERFLOW_ROLE": "wrker"}, ["ORDERFLOW_ROLE", "wrker", "all, web, worker"]),
        ({"ORDERFLOW_STACK": "Orders"}, ["ORDERFLOW_STACK", "Orders"]),
        ({"RESEND_AFTER": "40,10"}, ["RESEND_AFTER='40,10'", "later than the one before"]),
        ({"RESEND_AFTER": ","}, ["RESEND_AFTER", "one or more"]),
    ],
)
def test_a_wrong_setting_stops_the_start(
    settings: dict[str, str], words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message on stderr that names setting, value and choices; exit status 2."""
    for name, value in {**environment(), **settings}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("orderflow.serve.command.seal_aws", lambda settings: None)
    monkeypatch.setattr("orderflow.telemetry.logs.configure", lambda service, level: None)
    assert main(["inventory"]) == 2
    printed = capsys.readouterr().err
    for word in words:
        assert word in printed


def test_a_taken_port_is_named_with_its_variable() -> None:
    """And what to do about it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = serve("inventory", INVENTORY_PORT=str(port))
    assert done.returncode == 2
    assert f"INVENTORY_PORT={port}" in done.stderr
    assert "free port" in done.stderr


def test_an_impossible_address_is_named() -> None:
    """ORDERFLOW_BIND that is not this machine's."""
    settings: Any = {"aws_endpoint_url": "http://127.0.0.1:1", "orderflow_bind": "192.0.2.1"}
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1"):
        listen("inventory", Settings(**settings))


def test_connections_inherit_what_the_kernel_keeps() -> None:
    """Of a client that does not read: so much, and for so long (Linux hands the options down)."""
    settings: Any = {"aws_endpoint_url": "http://127.0.0.1:1", "inventory_port": free_port(), "web_response_timeout": 7}
    with (
        closing(listen("inventory", Settings(**settings))) as listener,
        closing(socket.create_connection(listener.getsockname())),
        closing(listener.accept()[0]) as accepted,
    ):
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 256 * 1024
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_000


def test_only_loopback_is_bound_by_default() -> None:
    """A fresh start is open to this machine alone."""
    settings: Any = {"aws_endpoint_url": "http://127.0.0.1:1", "inventory_port": free_port()}
    with closing(listen("inventory", Settings(**settings))) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


# Each start takes seconds of a processor, so that one process shows what doesn't depend on each other.
@pytest.mark.slow
@pytest.mark.parametrize(("role", "workers"), [("all", "1"), ("web", "2")])
def test_it_starts_without_database_and_broker_and_says_so(role: str, workers: str) -> None:
    """Alive, not ready, named parts, 503 in time, as many workers as are wanted. Fifteen rude clients of each kind hold
    up neither its answers nor its stop: gone quickly at SIGTERM, while they are there."""
    port = free_port()
    settings = {"ORDERFLOW_ROLE": role, "WEB_WORKERS": workers, "WEB_THREADS": "2", "WEB_REQUEST_TIMEOUT": "60"}
    with serving(INVENTORY_PORT=port, **settings) as process:
        assert answer(port, "/healthz", process).status_code == 200
        ready = answer(port, "/readyz", process)
        assert ready.status_code == 503
        named = {e["pointer"] for e in ready.json()["errors"]}
        assert "/broker" in named
        assert named & {"/database", "/schema"}, "without a database nothing is known of its schema"
        malformed = raw(port, b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n")
        assert b" 400 " in malformed
        assert b"application/problem+json" in malformed
        with Rude(int(port), list(KINDS), 15) as rude:
            rude.all_open(60)
            for _ in range(10):
                assert ask(int(port)) == 200
            assert rude.open["half a head"] == rude.open["half a body"] == rude.open["never reads"] == 15
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            output, _ = process.communicate(timeout=12)
            assert time.monotonic() - began < 10
        assert process.returncode == 0
        assert "Traceback" not in output


def raw(port: str, request: bytes) -> bytes:
    with closing(socket.create_connection(("127.0.0.1", int(port)), timeout=5)) as connection:
        connection.sendall(request)
        return connection.recv(65536)


@pytest.mark.slow
def test_what_is_too_long_or_late_is_counted() -> None:
    """What no view has seen is in /metrics too."""
    port = free_port()
    with serving(INVENTORY_PORT=port, WEB_REQUEST_TIMEOUT="0.2") as process:
        assert answer(port, "/healthz", process).status_code == 200
        assert b" 413 " in raw(port, KINDS["too long, half"])
        assert b" 408 " in raw(port, KINDS["half a body"])
        counted = answer(port, "/metrics", process).text
        for status in ("408", "413"):
            assert f'{{method="other",route="none",status="{status}"}} 1.0' in counted


@pytest.mark.slow
def test_a_worker_has_no_port_and_stops_at_sigterm() -> None:
    """`ORDERFLOW_ROLE=worker` works while its port is somebody else's."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        with serving(INVENTORY_PORT=port, ORDERFLOW_ROLE="worker") as process:
            assert process.stdout
            line = process.stdout.readline()
            while 'starting"' not in line:
                line = process.stdout.readline()
            time.sleep(2)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            process.communicate(timeout=12)
            assert time.monotonic() - began < 10
            assert process.returncode == 0


def test_a_crash_point_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """`CRASH_AT=point:3` kills at the third time, not before."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    failpoints.arm_crash("commit.after:3")
    try:
        for _ in range(2):
            failpoints.reached("commit.after")
        assert killed == []
        failpoints.reached("commit.after")
        assert killed == [signal.SIGKILL]
    finally:
        failpoints.disarm()
