"""The worker that no client can hold: a real gunicorn with two threads, on a port of this machine."""

from __future__ import annotations

import hashlib
import inspect
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from typing import Any, NamedTuple

import psutil
import pytest
from gunicorn import util
from gunicorn.http import message, parser, unreader, wsgi
from gunicorn.workers import base, gthread

from orderflow.serve import listen
from orderflow.settings import Settings
from orderflow.web.parsing import MAX_BODY
from tests.support.ports import free_port
from tests.support.rude import CHUNKED, FINISHED, KINDS, POST, Rude, ask

GET = b"GET /here HTTP/1.1\r\nHost: x\r\n\r\n"
UNFINISHED = [kind for kind in KINDS if kind not in FINISHED]


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


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), list(KINDS)], ids=[*KINDS, "all"])
def test_a_customer_is_answered_beside_rude_clients(server: Server, kinds: list[str]) -> None:
    """Thirty of each kind, with two threads: while they are all there."""
    with Rude(server.port, kinds, 30) as rude:
        rude.all_open()
        for _ in range(20):
            assert ask(server.port) == 200
        for kind in kinds:
            assert rude.open[kind] == (0 if kind in FINISHED else 30), "the unfinished ones have waited all the time"
    assert server.worker.num_threads() < 10


@pytest.fixture(scope="module")
def hasty() -> Iterator[Server]:
    """One with short time limits."""
    with serving(REQUEST_TIMEOUT="1", RESPONSE_TIMEOUT="1") as made:
        yield made


def test_each_is_ended_in_its_time(hasty: Server) -> None:
    """The connections that are waited for do not grow, whatever they wait for."""
    with Rude(hasty.port, UNFINISHED, 5) as rude:
        until(lambda: all(len(rude.ended[kind]) == 5 for kind in UNFINISHED))
    until(lambda: not clients(hasty))


def clients(server: Server) -> list[Any]:
    return [c for c in server.worker.net_connections() if c.status != psutil.CONN_LISTEN]


@pytest.mark.parametrize("kind", ["half a head", "half a body", "half a chunk"])
def test_who_stalls_is_told(hasty: Server, kind: str) -> None:
    """408, as problem+json."""
    with connected(hasty) as connection:
        connection.sendall(KINDS[kind])
        told = rest(connection)
    assert told.startswith(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n")
    assert b"application/problem+json" in told


def test_a_drip_is_no_progress(hasty: Server) -> None:
    """A byte now and then does not lengthen the time."""
    with connected(hasty) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        connection.settimeout(0.05)
        told = b""
        while not told:
            connection.sendall(b"X: y\r\n")
            with suppress(TimeoutError):
                told = connection.recv(100)
    assert b" 408 " in told


def test_who_says_nothing_is_left_silently(hasty: Server) -> None:
    """A connection that was opened beforehand was no request."""
    with connected(hasty) as connection:
        assert rest(connection) == b""


def test_a_slow_reader_gets_all_of_a_long_answer(server: Server) -> None:
    """The loop sends the rest when there is room."""
    with connected(server) as connection:
        connection.sendall(KINDS["never reads"])
        for _ in range(3):
            _, body = answer(connection)
            assert len(body) == 1_400_000


def test_a_request_may_come_byte_by_byte(server: Server) -> None:
    """And another after it, on the same connection."""
    with connected(server) as connection:
        for data in (POST + b"Content-Length: 3\r\n\r\nabc", CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"):
            for byte in data:
                connection.sendall(bytes([byte]))
            assert answer(connection)[1] == b"abc"


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """Also when the client has ended its side meanwhile."""
    paths = [b"/%d" % n for n in range(50)]
    with connected(server) as connection:
        connection.sendall(b"".join(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in paths))
        connection.shutdown(socket.SHUT_WR)
        assert [answer(connection)[1] for _ in paths] == paths
        assert rest(connection) == b""


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", GET[:-2], POST + b"Content-Length: 5\r\n\r\n1"], ids=["", "line", "head", "body"]
)
def test_who_leaves_in_the_middle_is_let_go(server: Server, sent: bytes) -> None:
    """Nothing waits for them."""
    with connected(server) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        rest(connection)


def test_a_client_that_waits_is_told_to_continue(server: Server) -> None:
    """Once, before its body; the answer follows."""
    with connected(server) as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert answer(connection) == (b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        connection.sendall(b"abc")
        head, body = answer(connection)
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b"abc"


REFUSED = {
    "a length and chunks": (400, POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n12345"),
    "chunked twice": (400, POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "a negative length": (400, POST + b"Content-Length: -1\r\n\r\n"),
    "a chunk longer than it says": (400, CHUNKED + b"1\r\n..\r\n"),
    "bare line feeds": (400, b"GET / HTTP/1.1\nHost: x\n\n"),
    "nonsense": (400, b"nonsense\r\n\r\n"),
    "an expectation": (417, POST + b"Expect: a-miracle\r\nContent-Length: 5\r\n\r\n"),
    "a body too long": (413, POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1)),
    "a body too long, announced": (413, POST + b"Expect: 100-continue\r\nContent-Length: 70000\r\n\r\n"),
    "a chunk too long": (413, CHUNKED + b"%x\r\n" % (MAX_BODY + 1)),
    "a line too long": (414, b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a line without end": (414, b"GET /" + b"x" * 40_000),
    "too many fields": (431, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
    "a field too long": (431, b"GET / HTTP/1.1\r\nX: " + b"y" * 40_000),
}


@pytest.mark.parametrize(("status", "request_"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_and_ends(server: Server, status: int, request_: bytes) -> None:
    """As problem+json; and what follows on that connection is not read as a request."""
    with connected(server) as connection:
        connection.sendall(request_ + GET)
        told = rest(connection)
    assert told.startswith(b"HTTP/1.1 %d " % status)
    assert told.count(b"HTTP/1.1") == 1
    assert b"application/problem+json" in told


def test_an_application_that_fails_midway_takes_nobody_along(server: Server) -> None:
    """Its client sees that not all has come; the thread is free."""
    for _ in range(5):
        with connected(server) as connection:
            connection.sendall(GET.replace(b"/here", b"/breaks"))
            assert rest(connection).endswith(b"\r\n\r\nthe beginning")
    assert ask(server.port) == 200


def test_the_oldest_makes_room() -> None:
    """Ten times as many idle connections as there is room for end nobody but their own; no file is left open."""
    with serving(CONNECTIONS="40") as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(400)]
        try:
            assert ask(server.port) == 200
            assert len(clients(server)) <= 41
            idle[-1].sendall(GET)
            assert answer(idle[-1])[1] == b"/here", "the latest are still served"
        finally:
            for connection in idle:
                connection.close()
        until(lambda: not clients(server))


def test_memory_is_bounded() -> None:
    """Answers that nobody reads, of 280 MB in all: the longest are thrown away, and nobody else's."""
    with serving() as server:
        before = server.worker.memory_info().rss
        with Rude(server.port, ["half a body", "never reads"], 200) as rude:
            until(lambda: len(rude.ended["never reads"]) > 100)
            assert ask(server.port) == 200
            assert rude.open["half a body"] == 200
            assert server.worker.memory_info().rss - before < 100 * 2**20


def test_it_stops_in_time_beside_them() -> None:
    """SIGTERM: connections without a request are ended soon, half requests in the time that requests have."""
    with serving(GRACE="4") as server, connected(server) as kept, Rude(server.port, list(KINDS), 20) as rude:
        kept.sendall(GET)
        answer(kept)
        rude.all_open()
        server.process.send_signal(signal.SIGTERM)
        assert rest(kept) == b""
        assert server.process.wait(10) in (0, None)


def test_it_fits_gunicorns_inner_side() -> None:
    """The worker stands on parts of gunicorn that are not public: where they change, somebody has to read what changed
    (`orderflow/serve/buffering.py` and `connection.py`), and then write the new digest here."""
    parts: list[Any] = [
        gthread.TConn, gthread.PollableMethodQueue, gthread.ThreadWorker, parser, unreader, base.Worker.handle_error,
        message.Message.set_body_reader, wsgi.create, wsgi.Response, util.write, util.close_graceful,
    ]  # fmt: skip
    digest = hashlib.sha256("".join(map(inspect.getsource, parts)).encode()).hexdigest()[:16]
    assert (version("gunicorn"), digest) == ("27.0.1", "1d37d16ae25810cd")
