"""When a request is whole: not a byte too early, and at once where nothing more helps."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser
from hypothesis import given
from hypothesis import strategies as st

from orderflow.errors import Problem
from orderflow.serve.arriving import Arriving
from orderflow.web.parsing import MAX_BODY
from tests.support.rude import CHUNKED, POST

WHOLE = {
    "no field": b"GET / HTTP/1.1\r\n\r\n",
    "no body": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an empty line first": b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a length": POST + b"Content-Length: 5\r\n\r\n12345",
    "a length of nothing": POST + b"CONTENT-LENGTH:\t0 \r\n\r\n",
    "chunks": CHUNKED + b"3\r\nabc\r\nA ;x=1\r\n\r\n\r\n4567\r\n\r\n0\r\n\r\n",
    "chunks and trailers": CHUNKED + b"1\r\n.\r\n0\r\nX: y\r\nZ: 0\r\n\r\n",
    "a name within another": POST + b"X-Content-Length: 5\r\nContent-Lengthy: 5\r\n\r\n",
}

ODD = {
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "no number": POST + b"Content-Length: +5\r\n\r\n",
    "a number without end": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 5\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "another expectation": POST + b"Expect: a-miracle\r\nContent-Length: 5\r\n\r\n",
    "a bare line feed": b"GET / HTTP/1.1\nHost: x\n",
    "a chunk without size": CHUNKED + b"x\r\n",
    "a chunk of a negative size": CHUNKED + b"-1\r\n",
}
"""What the parser refuses, so that nobody waits for more of it."""


def first_whole(data: bytes, step: int = 1) -> int | None:
    """How many of its bytes, coming in such steps, make it whole."""
    arriving, received = Arriving(), bytearray()
    for start in range(0, len(data), step):
        received += data[start : start + step]
        if arriving.whole(received):
            return len(received)
    return None


def parsed(data: bytes) -> bool:
    """Whether gunicorn's parser reads one request, to its last byte, or refuses it: False where it wants more."""

    def pieces() -> Any:
        yield data
        raise TimeoutError

    try:
        request = next(RequestParser(Config(), pieces(), ("127.0.0.1", 1)))
        while request.body.read(1024):
            pass
    except TimeoutError:
        return False
    except Exception:
        return True
    return True


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_whole_with_the_last_byte(data: bytes) -> None:
    """However it is cut; then also the parser finds all that it wants."""
    assert first_whole(data) == len(data)
    assert Arriving().whole(bytearray(data + b"GET /next")), "what follows is another matter"
    assert parsed(data)
    assert not parsed(data[:-1])


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_what_is_odd_waits_for_nothing(data: bytes) -> None:
    """The parser refuses it as it is."""
    assert first_whole(data) is not None
    assert Arriving().whole(bytearray(data))
    assert parsed(data)


@given(
    fields=st.lists(
        st.sampled_from(
            [
                b"Content-Length: 5", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"Expect: 100-continue",
                b"Transfer-Encoding: gzip, chunked", b"content-length:3", b"X: y", b"TRANSFER-ENCODING:\tChunked ",
            ]
        ),
        max_size=4,
    ),
    body=st.lists(
        st.sampled_from([b"0\r\n", b"\r\n", b"3\r\nabc\r\n", b"abc", b"1;x\r\n", b"T: 1\r\n", b"\r", b"\n"]), max_size=6
    ),
)  # fmt: skip
def test_the_parser_has_what_it_wants(fields: list[bytes], body: list[bytes]) -> None:
    """Whatever is put together: what counts as whole never leaves the parser waiting."""
    data = b"\r\n".join([b"POST / HTTP/1.1", *fields, b"", b"".join(body)])
    with suppress(Problem):
        count = first_whole(data)
        assert count is None or parsed(data[:count])


TOO_LONG = {
    "a length": (413, POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1)),
    "a chunk": (413, CHUNKED + b"%x\r\n" % (MAX_BODY + 1)),
    "chunks": (413, CHUNKED + (b"100\r\n" + b"x" * 256 + b"\r\n") * 300),
    "small chunks": (413, CHUNKED + b"1\r\n.\r\n" * (MAX_BODY + 1)),
    "chunks with much around them": (413, CHUNKED + b"1;%b\r\n.\r\n" % (b"x" * 1000) * 200),
    "a line": (414, b"GET /" + b"x" * 40_000),
    "a field": (431, b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000),
    "fields": (431, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 8_000 + b"\r\n"),
}


@pytest.mark.parametrize(("status", "data"), TOO_LONG.values(), ids=TOO_LONG)
def test_too_long_is_refused_before_it_is_here(status: int, data: bytes) -> None:
    """Also when it comes in pieces."""
    with pytest.raises(Problem) as refused:
        Arriving().whole(bytearray(data))
    assert refused.value.status == status
    with pytest.raises(Problem):
        first_whole(data, step=500)


@pytest.mark.parametrize(
    ("head", "waits"),
    [
        (POST + b"Expect: 100-Continue\r\nContent-Length: 5\r\n\r\n", True),
        (b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", False),
        (POST + b"Content-Length: 5\r\n\r\n", False),
    ],
)
def test_a_client_may_wait_for_100(head: bytes, waits: bool) -> None:
    """Not one of HTTP/1.0."""
    arriving = Arriving()
    assert not arriving.whole(bytearray(head))
    assert arriving.waits_for_100 == waits
