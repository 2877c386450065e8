"""What the worker reads as a request, however it comes, and what it refuses: a real gunicorn on a port of this
machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from orderflow.web.parsing import MAX_BODY
from tests.support.buffering import GET, Server, answer, connected, rest, serving
from tests.support.rude import CHUNKED, KINDS, POST, ask


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One with long time limits."""
    with serving() as made:
        yield made


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
