"""Clients that are slow or never finish: they hold connections, and record when the server closes them."""

from __future__ import annotations

import http.client
import random
import select
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType, TracebackType
from typing import Final, Self

POST: Final = b"POST /dlq/redrive HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"

KINDS: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        "close, stays": b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "1.0, stays": b"GET /healthz HTTP/1.0\r\n\r\n",
        "half a head": b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
        "half a body": POST + b"Content-Length: 1000\r\n\r\n{",
        "half a chunk": CHUNKED + b"400\r\n{",
        "too long, half": POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 5000,
        "never reads": b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
    }
)
"""What each kind sends before it stops. The last one requests the longest answer that there is."""

FINISHED: Final = frozenset({"close, stays", "1.0, stays", "too long, half"})
"""Kinds that are answered: the server closes its side at once, and waits for theirs."""

_ENDED: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Rude:
    """A context that holds a number of connections of each kind and closes none before it ends. If the server closes
    one, another takes its place within `stays` seconds (None: never): all at once would be a load, not rudeness."""

    def __init__(self, port: int, kinds: Sequence[str], each: int, *, stays: float | None = None) -> None:
        self._port, self._kinds, self._each, self._stays = port, kinds, each, stays
        self.open: Counter[str] = Counter()
        """Connections of each kind that the server has not closed."""
        self.ended: defaultdict[str, list[float]] = defaultdict(list)
        """Seconds from the connect until the server closed its side."""
        self.refused = 0
        """Connects that failed."""
        self._stop = threading.Event()
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._hold, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for held in self._held:
            held.close()

    def all_open(self, seconds: float = 30) -> None:
        """Waits until as many connections of each kind have been opened as are wanted."""
        ends = time.monotonic() + seconds
        while any(self.open[kind] + len(self.ended[kind]) < self._each for kind in self._kinds):
            assert time.monotonic() < ends, (self.open, {k: len(v) for k, v in self.ended.items()}, self.refused)
            time.sleep(0.02)

    def _hold(self) -> None:
        poll, of = select.poll(), {}
        due: list[tuple[float, str]] = [(0.0, kind) for _ in range(self._each) for kind in self._kinds]
        while not self._stop.is_set():
            now = time.monotonic()
            for turn in [turn for turn in due if turn[0] <= now][:50]:
                due.remove(turn)
                try:
                    client = socket.create_connection(("127.0.0.1", self._port), timeout=1)
                except OSError:
                    self.refused += 1
                    due.append((now + 0.5, turn[1]))
                    break
                client.setblocking(False)
                with suppress(OSError):
                    client.send(KINDS[turn[1]])
                poll.register(client, _ENDED)
                of[client.fileno()] = (client, turn[1], time.monotonic())
                self._held.append(client)
                self.open[turn[1]] += 1
            for number, _ in poll.poll(20):
                _, kind, began = of.pop(number)
                poll.unregister(number)
                self.open[kind] -= 1
                self.ended[kind].append(time.monotonic() - began)
                if self._stays is not None:
                    due.append((time.monotonic() + self._stays * random.random(), kind))


def ask(port: int, path: str = "/healthz", timeout: float = 10) -> int:
    """One request of a customer, over its own connection; returns the status. Raises OSError if there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()
