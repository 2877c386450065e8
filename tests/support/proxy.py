"""A TCP proxy between a process and its database or broker: a test sees what passes, and cuts it where it wants."""

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
    """What sees the bytes of one connection."""

    def asked(self, data: bytes) -> None:
        """They go to the server."""

    def answered(self, data: bytes) -> bytes | None:
        """They come from it. Returns what the client gets; None: nothing any more, its connection is cut."""


@contextmanager
def proxy(url: str, tap: Callable[[], Tap]) -> Iterator[str]:
    """The URL of a proxy to the server of `url`, with a tap on each connection."""
    there = urlsplit(url)
    server = (str(there.hostname), int(there.port or 0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        open_sockets: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):  # closed: the end
                while True:
                    client, _ = listener.accept()
                    try:
                        upstream = socket.create_connection(server, timeout=5)
                    except OSError:  # as if the client had asked it itself
                        client.close()
                        continue
                    upstream.settimeout(None)
                    for one in (client, upstream):  # what comes in small pieces goes on at once
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
    """Cuts PostgreSQL connections where the answer to a COMMIT comes back: it has been committed, and nobody hears of
    it. `every` n-th COMMIT of all connections, `most` times. https://www.postgresql.org/docs/18/protocol-message-formats.html"""

    def __init__(self) -> None:
        self.fired = 0
        self._every = self._most = self._seen = 0
        self._lock = threading.Lock()

    def arm(self, every: int, most: int = 1) -> None:
        """Begins to count anew."""
        with self._lock:
            self.fired, self._seen, self._every, self._most = 0, 0, every, most

    def disarm(self) -> None:
        """Lets all through."""
        self._most = 0

    @contextmanager
    def between(self, url: str) -> Iterator[str]:
        """The database's URL through a proxy."""
        with proxy(url, lambda: _Commits(self)) as through:
            yield f"{through}?sslmode=disable&gssencmode=disable"

    def meets(self) -> bool:
        """Whether this COMMIT is one of those."""
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
        self._rest = data[at:]  # half a message is of no use to anybody
        return data[:at]


@dataclass(slots=True)
class Call:
    """A call of the broker's API; `status` is that of its answer, None where none came. Times are monotonic."""

    at: float
    operation: str
    status: int | None = None


@dataclass
class Calls:
    """All calls of one process, in their order."""

    made: list[Call] = field(default_factory=list)

    @contextmanager
    def between(self, url: str) -> Iterator[str]:
        """The broker's URL through a proxy."""
        with proxy(url, lambda: _Http(self.made)) as through:
            yield through

    def since(self, moment: float) -> list[Call]:
        """Those begun after a moment."""
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
