"""The small application behind a real gunicorn, and a client that sees each byte."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, NamedTuple

import psutil
import pytest

from orderflow.serve import listen
from orderflow.settings import Settings
from tests.support.ports import free_port
from tests.support.rude import ask

GET = b"GET /here HTTP/1.1\r\nHost: x\r\n\r\n"


class Server(NamedTuple):
    port: int
    process: psutil.Process

    @property
    def worker(self) -> psutil.Process:
        return self.process.children()[0]


@contextmanager
def serving(**environment: str) -> Iterator[Server]:
    """The small application; killed at the end if it is still there."""
    port = free_port()
    settings: Any = {"aws_endpoint_url": "http://x", "inventory_port": port}
    with closing(listen("inventory", Settings(**settings))) as listener:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.small_server", str(listener.fileno())],
            pass_fds=[listener.fileno()], env=os.environ | environment, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        until(lambda: ask(port, "/up", timeout=1) == 200, 120)
        yield Server(port, psutil.Process(process.pid))
    finally:
        for child in psutil.Process(process.pid).children() if process.poll() is None else ():
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One with long time limits."""
    with serving() as made:
        yield made


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for a condition."""
    ends = time.monotonic() + seconds
    while True:
        with suppress(OSError):
            if holds():
                return
        assert time.monotonic() < ends
        time.sleep(0.05)


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of the next answer, with its Content-Length."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, head
        head += byte
    length = int(dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2]).get(b"Content-Length", b"0"))
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return head, body
