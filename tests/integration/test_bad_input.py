"""Bad input to the real servers: it is refused at once and without effect, and the answer names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orderflow.web.parsing import MAX_BODY
from tests.support.bodies import order_body
from tests.support.raw_http import JSON, post, talk
from tests.support.system import System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("system")]


@pytest.fixture(autouse=True)
def nothing_is_placed(system: System, request: pytest.FixtureRequest) -> Any:
    """Checks that no refused request leaves an order behind."""
    count = "SELECT count(*) FROM orders"
    before = system.sql("order", count)
    yield
    if "refused" in request.node.name:
        assert system.sql("order", count) == before


VALID = json.dumps(order_body()).encode()
BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "JSON"),
    "unknown SKU": (VALID.replace(b"BOOK-1", b"NOPE-1"), 422, "/items/0/sku"),
    "a surrogate's raw bytes": (VALID.replace(b"c-1", b"\xed\xa0\x80"), 400, ""),
    "raw NUL": (VALID.replace(b"c-1", b"c\0"), 400, "JSON"),
    "10,000 deep": (b'{"items":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, ""),
    "10,000 lines": (
        json.dumps(order_body(items=[{"sku": "BOOK-1", "quantity": 1}] * 10_000)).encode(), 413, "65536",
    ),
    "64 KiB + 1": (VALID + b" " * (MAX_BODY + 1 - len(VALID)), 413, "65536"),
    "a megabyte": (b"x" * 1_000_000, 413, "65536"),
}  # fmt: skip
"""Whole bodies, the status, and a word that the answer contains. Those that no connection changes are in
tests/component/test_bad_input.py, with all fields."""


@pytest.mark.parametrize("case", list(BODIES))
@pytest.mark.row(15)
def test_a_broken_body_is_refused(system: System, case: str) -> None:
    body, status, word = BODIES[case]
    answer = post(system, body)
    assert answer.status == status, answer
    assert word in json.dumps(answer.problem)


def test_the_longest_body_is_read(system: System) -> None:
    """64 KiB to the byte, most of it blanks."""
    answer = post(system, VALID + b" " * (MAX_BODY - len(VALID)))
    assert answer.status == 202
    system.until_terminal(json.loads(answer.body)["id"])


HEADERS: dict[str, tuple[dict[str, str], int]] = {
    "no content type": ({}, 415),
    "key not printable": (JSON | {"Idempotency-Key": "a\tb"}, 422),
}


@pytest.mark.parametrize("case", list(HEADERS))
def test_a_wrong_header_is_refused(system: System, case: str) -> None:
    headers, status = HEADERS[case]
    assert post(system, VALID, headers).status == status


CHUNKED = b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunks(body: bytes, size: int = 4096) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def test_a_chunked_body_is_read(system: System) -> None:
    """A body needn't state its length."""
    answer = talk(system, CHUNKED + chunks(VALID, 7))
    assert answer.status == 202
    system.until_terminal(json.loads(answer.body)["id"])


def test_a_chunked_body_over_the_limit_is_refused(system: System) -> None:
    """It is refused once it exceeds the limit, without being read to its end."""
    assert talk(system, CHUNKED + chunks(b" " * (MAX_BODY + 1))).status == 413


def head(length: str) -> bytes:
    start = "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{start}Content-Length: {length}\r\n\r\n".encode()


BROKEN: dict[str, tuple[bytes, int]] = {
    "chunks without an end": (CHUNKED + b"10\r\n{", 400),
    "chunk sizes that are none": (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", 400),
    "a negative chunk": (CHUNKED + b"-5\r\n{}\r\n0\r\n\r\n", 400),
    "a truncated body": (head(str(len(VALID) + 50)) + VALID, 400),
    "a body that never comes": (head("50"), 400),
    "a negative length": (head("-1") + VALID, 400),
    "a length that is none": (head("many") + VALID, 400),
    "a length of 10^30": (head("1" + "0" * 30), 413),
    "both ways at once": (CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n" + chunks(VALID), 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", list(BROKEN))
@pytest.mark.row(15)
def test_broken_http_is_refused(system: System, case: str) -> None:
    """The caller closes its side after sending: an incomplete body is refused, not waited for."""
    data, status = BROKEN[case]
    assert talk(system, data).status == status


PATHS: dict[str, tuple[str, str, int]] = {
    "unknown id": ("order", "/orders/00000000-0000-7000-8000-000000000000", 404),
    "NUL": ("order", "/orders/%00", 404),
    "up and away": ("order", "/orders/..%2f..%2fetc%2fpasswd", 404),
    "broken escape": ("order", "/orders/%zz", 404),
    "bytes that are no UTF-8": ("order", "/orders/%ff%fe", 404),
    "forged cursor": ("order", "/orders?cursor=%27%20OR%201%3D1", 422),
    "customer with NUL": ("order", "/orders?customer_id=%00", 422),
    "no SKU": ("inventory", "/stock/%27", 404),
}
"""Mostly those that a client might normalize."""


@pytest.mark.parametrize("case", list(PATHS))
def test_a_wrong_address_is_refused(system: System, case: str) -> None:
    service, path, status = PATHS[case]
    answer = talk(system, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(), service)
    assert answer.status == status
