"""Sends raw requests to the real servers, as no HTTP library would send them."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from tests.support.system import System

JSON: Final[Mapping[str, str]] = MappingProxyType({"Content-Type": "application/json"})


class Raw(NamedTuple):
    """An answer as it came over the network."""

    status: int
    body: bytes

    @property
    def problem(self) -> Any:
        return json.loads(self.body)


def post(system: System, body: bytes, headers: Mapping[str, str] = JSON) -> Raw:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    start = f"POST /orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    return talk(system, start.encode() + body)


def talk(system: System, data: bytes, service: str = "order") -> Raw:
    """Sends bytes, ends the sending side, and reads the answer. A refusal must be problem+json and take less than a
    second (the quickest of three attempts counts: this machine has other work)."""
    took = []
    while True:
        began = time.monotonic()
        heading, _, body = exchange(system.ports[f"{service.upper()}_PORT"], data).partition(b"\r\n\r\n")
        took.append(time.monotonic() - began)
        answer = Raw(int(heading.split()[1]), body)
        assert answer.status < 500, answer
        if answer.status >= 400:
            assert b"application/problem+json" in heading.lower()
            assert answer.problem["status"] == answer.status
            assert answer.problem["title"]
        if answer.status < 400 or took[-1] < 1:
            return answer
        assert len(took) < 3, f"took {took} s"


def exchange(port: int, data: bytes) -> bytes:
    """Sends bytes to a port of this machine, ends the sending side, and returns the whole answer."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        # What is refused is answered, and the connection closed, before it has been read to its end: the answer counts.
        with contextlib.suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while not _whole(received) and (part := connection.recv(65536)):
                received += part
    return received


def _whole(received: bytes) -> bool:
    heading, ended, body = received.partition(b"\r\n\r\n")
    lengths = [line for line in heading.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(ended and lengths) and len(body) >= int(lengths[0].partition(b":")[2])
