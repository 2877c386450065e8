"""gunicorn's threads, protected from slow clients: the loop reads requests and writes answers, threads only make them.

A thread gets a connection when its request is complete (head and body), and returns it when the answer is made. A slow
client costs only an entry in the selector, until its time is up, or until another needs the place or the memory.
docs/adr/0029-slow-clients.md describes the measurements and alternatives.

It extends gunicorn's `ThreadWorker`: `run`, the thread pool and all of HTTP are gunicorn's.
tests/unit/serve/test_buffering.py fails if the parts of gunicorn that it uses change.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, Final

from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from orderflow.errors import Problem
from orderflow.serve.connection import Connection
from orderflow.web.metrics import count_request

_MAX_HELD: Final = 32 * 1024 * 1024
"""Maximum bytes of unfinished requests and unsent answers that a process keeps in all."""

_LINGER: Final = 2.0
"""Seconds for a client to read the last answer: if the connection closed at once, data that it still sends would make
TCP discard the answer.
https://www.rfc-editor.org/rfc/rfc9112#section-9.6"""

_MAX_DROPPED: Final = 1024 * 1024
"""Maximum bytes that are dropped in this time."""

_ACCEPTED_AT_ONCE: Final = 64
"""Connections accepted in one round of the loop."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_NO_FILES_LEFT: Final = (errno.EMFILE, errno.ENFILE)

_NO_CLIENT: Final = (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK)


def refusal(problem: Problem) -> bytes:
    """The answer to what can't be read as a request; the connection is closed after it."""
    body = json.dumps(
        {"type": "about:blank", "title": problem.title, "status": problem.status, "detail": problem.detail}
    )
    head = (
        f"HTTP/1.1 {problem.status} {problem.title}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    return (head + body).encode("latin-1")


class BufferingWorker(ThreadWorker):  # type: ignore[misc]
    """Reads complete requests before it uses a thread, and writes answers after the thread is free again."""

    request_timeout = 10.0
    """Seconds from the first byte of a request until it is complete."""
    response_timeout = 30.0
    """Seconds for a client to receive an answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: dict[Connection, None] = {}  # connections without a thread, the longest waiting first
        self._held = 0
        self._looked = 0.0

    def accept(self, listener: Any) -> None:
        """Accepts new connections. If there are too many, it closes the one that has waited longest."""
        # Several per round: if the backlog is full, the kernel drops a client, which retries only after seconds.
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, address = listener.accept()
            except OSError as error:
                if error.errno in _NO_FILES_LEFT:
                    if not self._make_room():
                        time.sleep(0.05)  # threads hold all connections, and the listener stays ready
                elif error.errno not in _NO_CLIENT:
                    raise
                return
            self.nr_conns += 1
            if self.nr_conns >= self.worker_connections:  # gunicorn itself would accept no more
                self._make_room()
            conn = Connection(self.cfg, client, address, listener.getsockname())
            conn.deadline = time.monotonic() + self.request_timeout
            self._run_step(conn, self._read)

    def handle(self, conn: Connection) -> bool:
        """In a thread: answers the request, and sends what the client accepts at once. Returns whether the connection
        may be used again."""
        reusable = super().handle(conn)
        conn.sock.flush()
        return bool(reusable)

    def finish_request(self, conn: Connection, fs: Future[bool]) -> None:
        """Gets a connection back from its thread."""
        conn.reusable = not fs.cancelled() and not fs.exception() and fs.result()
        conn.take_back()
        self._run_step(conn, self._resume)

    def murder_pending(self) -> None:
        """Ends connections whose time is up. gunicorn calls it at least once per second."""
        now = time.monotonic()
        if now < self._looked + 0.5:
            return
        self._looked = now
        for conn in [conn for conn in self._waiting if conn.deadline <= now]:
            if conn in self._waiting:
                self._run_step(conn, self._expire)

    def murder_keepalived(self, force: bool = False) -> None:
        """At the end of the process: ends all connections that still wait."""
        for conn in list(self._waiting) if force else ():
            self._end(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        # The process is stopping: connections without a request aren't kept any longer.
        for conn in self._waiting:
            if conn.ready == self._read and not conn.sock.received:
                conn.deadline = min(conn.deadline, deadline)

    # Steps for a connection in the loop.

    def _read(self, conn: Connection) -> None:
        stream = conn.sock
        idle = not stream.received
        if stream.receive() and idle:
            conn.deadline = time.monotonic() + self.request_timeout
        if stream.ended and not stream.received:
            self._end(conn)
        else:
            self._look(conn)

    def _look(self, conn: Connection) -> None:
        stream = conn.sock
        try:
            # If the client closed its side within the request, the parser answers.
            whole = stream.ended or (bool(stream.received) and conn.arriving.whole(stream.received))
        except Problem as problem:
            self._refuse(conn, problem)
            return
        if whole:
            self._leave(conn)
            self.enqueue_req(conn)
            return
        if conn.arriving.waits_for_100:
            conn.arriving.waits_for_100 = False
            stream.sendall(_CONTINUE)
            stream.flush()
        self._wait(conn, EVENT_READ, self._read)

    def _resume(self, conn: Connection) -> None:
        stream, now = conn.sock, time.monotonic()
        if stream.unsent:
            conn.deadline = now + self.response_timeout
            self._wait(conn, EVENT_WRITE, self._write)
        elif not conn.reusable:
            stream.end_writing()
            conn.deadline = now + _LINGER
            self._wait(conn, EVENT_READ, self._drop)
        elif stream.received or stream.ended:
            conn.deadline = now + self.request_timeout
            self._look(conn) if stream.received else self._end(conn)
        else:
            conn.deadline = now + (self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER)
            self._wait(conn, EVENT_READ, self._read)

    def _write(self, conn: Connection) -> None:
        conn.sock.flush()
        if conn.sock.unsent:
            self._weigh(conn)
        else:
            self._resume(conn)

    def _drop(self, conn: Connection) -> None:
        conn.dropped += conn.sock.receive()
        conn.sock.received.clear()
        if conn.sock.ended or conn.dropped > _MAX_DROPPED:
            self._end(conn)

    def _expire(self, conn: Connection) -> None:
        if conn.ready == self._read and conn.sock.received:
            self._refuse(conn, Problem(408, "Request Timeout", "the rest of the request did not come in time"))
        else:
            self._end(conn)

    def _refuse(self, conn: Connection, problem: Problem) -> None:
        conn.reusable = False
        conn.sock.received.clear()
        conn.sock.sendall(refusal(problem))
        count_request("", None, problem.status)
        conn.sock.flush()
        self._resume(conn)

    # The connections that wait.

    def _run_step(self, conn: Connection, step: Callable[[Connection], None]) -> None:
        try:
            step(conn)
        except OSError:
            self._end(conn)  # the client has disconnected

    def _wait(self, conn: Connection, events: int, ready: Callable[[Connection], None]) -> None:
        conn.ready = ready
        if conn not in self._waiting:
            self._waiting[conn] = None
            self.poller.register(conn.sock, events, partial(self._ready, conn))
        elif conn.events != events:
            self.poller.modify(conn.sock, events, partial(self._ready, conn))
        conn.events = events
        self._weigh(conn)

    def _ready(self, conn: Connection, _: object) -> None:
        if conn in self._waiting:  # otherwise it was closed in this round, to make room for another
            self._run_step(conn, conn.ready)

    def _leave(self, conn: Connection) -> None:
        if conn in self._waiting:
            del self._waiting[conn]
            self.poller.unregister(conn.sock)
            self._held -= conn.held
            conn.held = 0

    def _end(self, conn: Connection) -> None:
        self._leave(conn)
        self.nr_conns -= 1
        conn.sock.release()

    def _make_room(self) -> bool:
        oldest = next(iter(self._waiting), None)
        if oldest:
            self._end(oldest)
        return oldest is not None

    def _weigh(self, conn: Connection) -> None:
        held = len(conn.sock.received) + conn.sock.unsent
        self._held += held - conn.held
        conn.held = held
        while self._held > _MAX_HELD:
            self._end(max(self._waiting, key=lambda other: other.held))
