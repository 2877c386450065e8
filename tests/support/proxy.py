"""A TCP proxy between a process and its database or broker: a test sees what passes, and can cut connections."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import urlsplit, urlunsplit

_CHUNK: Final = 65536


class Tap(Protocol):
    """Sees the bytes of one connection."""

    def asked(self, data: bytes) -> None:
        """Bytes that go to the server."""

    def answered(self, data: bytes) -> bytes | None:
        """Bytes that come from the server. Returns what the client gets; None cuts its connection."""


@contextmanager
def proxy(url: str, tap: Callable[[], Tap]) -> Iterator[str]:
    """The URL of a proxy to the server of `url`, with a tap on each connection."""
    there = urlsplit(url)
    server = (str(there.hostname), int(there.port or 0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        open_sockets: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):  # the connection was closed
                while True:
                    client, _ = listener.accept()
                    try:
                        upstream = socket.create_connection(server, timeout=5)
                    except OSError:  # as if the client were connected directly
                        client.close()
                        continue
                    upstream.settimeout(None)
                    for one in (client, upstream):  # forward small pieces at once
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    open_sockets.extend((client, upstream))
                    mine = tap()
                    for job in (_ask, _answer):
                        threading.Thread(target=job, args=(client, upstream, mine), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        user = f"{there.netloc.rpartition('@')[0]}@" if "@" in there.netloc else ""
        try:
            yield urlunsplit(there._replace(netloc=f"{user}127.0.0.1:{listener.getsockname()[1]}"))
        finally:
            for one in open_sockets:
                _cut(one)


def _ask(client: socket.socket, upstream: socket.socket, tap: Tap) -> None:
    with suppress(OSError):
        while data := client.recv(_CHUNK):
            tap.asked(data)
            upstream.sendall(data)
    _cut(client, upstream)


def _answer(client: socket.socket, upstream: socket.socket, tap: Tap) -> None:
    with suppress(OSError):
        while (data := upstream.recv(_CHUNK)) and (rest := tap.answered(data)) is not None:
            client.sendall(rest)
    _cut(client, upstream)


def _cut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


class LostCommits:
    """Cuts PostgreSQL connections when the answer to a COMMIT comes back: the transaction is committed, and its client
    does not learn it. It does so at `every` n-th COMMIT of all connections, at most `most` times. https://www.postgresql.org/docs/18/protocol-message-formats.html"""

    def __init__(self) -> None:
        self.fired = 0
        self._every = self._most = self._seen = 0
        self._lock = threading.Lock()

    def arm(self, every: int, most: int = 1) -> None:
        """Starts to count again."""
        with self._lock:
            self.fired, self._seen, self._every, self._most = 0, 0, every, most

    def disarm(self) -> None:
        """Lets everything pass."""
        self._most = 0

    @contextmanager
    def between(self, url: str) -> Iterator[str]:
        """The database's URL through a proxy."""
        with proxy(url, lambda: _Commits(self)) as through:
            yield f"{through}?sslmode=disable&gssencmode=disable"

    def meets(self) -> bool:
        """Whether to cut the connection at this COMMIT."""
        with self._lock:
            self._seen += 1
            hit = self.fired < self._most and self._seen % self._every == 0
            self.fired += hit
            return hit


class _Commits(Tap):
    def __init__(self, lost: LostCommits) -> None:
        self._lost = lost
        self._rest = b""

    def asked(self, data: bytes) -> None:
        pass

    def answered(self, data: bytes) -> bytes | None:
        data = self._rest + data
        at = 0
        while len(data) >= at + 5 and len(data) >= (end := at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")):
            if data[at : at + 1] == b"C" and data[at + 5 : end] == b"COMMIT\0" and self._lost.meets():
                return None
            at = end
        self._rest = data[at:]  # an incomplete message is useless
        return data[:at]


@dataclass(slots=True)
class Call:
    """A call of the broker's API; `status` is that of its answer, None if none came. Times are monotonic."""

    at: float
    operation: str
    status: int | None = None


@dataclass
class Calls:
    """All calls of one process, in order."""

    made: list[Call] = field(default_factory=list)

    @contextmanager
    def between(self, url: str) -> Iterator[str]:
        """The broker's URL through a proxy."""
        with proxy(url, lambda: _Http(self.made)) as through:
            yield through

    def since(self, moment: float) -> list[Call]:
        """The calls that began after a moment."""
        return [call for call in self.made if call.at > moment]


_OPERATION: Final = re.compile(rb"(?:X-Amz-Target: \w+\.|^Action=|&Action=)(\w+)", re.IGNORECASE)
_STATUS: Final = re.compile(rb"HTTP/1\.\d (\d{3})")


class _Http(Tap):
    def __init__(self, made: list[Call]) -> None:
        self._made = made
        self._open: Call | None = None

    def asked(self, data: bytes) -> None:
        if found := _OPERATION.search(data):
            self._open = Call(time.monotonic(), found[1].decode())
            self._made.append(self._open)

    def answered(self, data: bytes) -> bytes | None:
        if self._open and (found := _STATUS.match(data)):
            self._open.status = int(found[1])
        return data
