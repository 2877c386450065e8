"""The worker that no client can hold: a real gunicorn with two threads, on a port of this machine."""

from __future__ import annotations

import hashlib
import inspect
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import psutil
import pytest
from gunicorn import util
from gunicorn.http import message, parser, unreader, wsgi
from gunicorn.workers import base, gthread

from tests.support.buffering import GET, Server, answer, connected, rest, serving, until
from tests.support.rude import FINISHED, KINDS, Rude, ask

UNFINISHED = [kind for kind in KINDS if kind not in FINISHED]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One with long time limits."""
    with serving() as made:
        yield made


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
            # 32 MB are held; the allocator gives back what it had for the answers that were thrown away when it likes.
            assert server.worker.memory_info().rss - before < 150 * 2**20


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
