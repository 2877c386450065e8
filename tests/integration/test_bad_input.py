"""Bad input to the real servers: it is refused at once and without effect, and the answer names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orderflow.routing import SERVICES
from orderflow.web.parsing import MAX_BODY
from tests.support.bodies import order_body
from tests.support.raw_http import JSON, post, talk
from tests.support.system import System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("system")]

# Bodies of POST /orders


def line(**changes: Any) -> dict[str, Any]:
    return {"items": [{"sku": "BOOK-1", "quantity": 1} | changes]}


def address(**changes: Any) -> dict[str, Any]:
    return {"shipping_address": order_body()["shipping_address"] | changes}


FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown SKU": (line(sku="NOPE-1"), "/items/0/sku"),
    "SKU with a quote": (line(sku="' OR 1=1 --"), "/items/0/sku"),
    "negative quantity": (line(quantity=-1), "/items/0/quantity"),
    "quantity zero": (line(quantity=0), "/items/0/quantity"),
    "fractional quantity": (line(quantity=1.5), "/items/0/quantity"),
    "huge quantity": (line(quantity=10**9), "/items/0/quantity"),
    "absurd quantity": (line(quantity=10**400), "/items/0/quantity"),
    "quantity as text": (line(quantity="1"), "/items/0/quantity"),
    "quantity as a truth": (line(quantity=True), "/items/0/quantity"),
    "quantity null": (line(quantity=None), "/items/0/quantity"),
    "a price": (line(price=1), "/items/0/price"),
    "a currency": (line(currency="USD"), "/items/0/currency"),
    "empty order": ({"items": []}, "/items"),
    "items as an object": ({"items": {}}, "/items"),
    "101 lines": ({"items": [{"sku": "BOOK-1", "quantity": 1}] * 101}, "/items"),
    "unknown workflow": ({"workflow": "telepathy"}, "/workflow"),
    "unknown bus": ({"event_bus": "pigeon"}, "/event_bus"),
    "unknown field": ({"coupon": "FREE"}, "/coupon"),
    "field with a slash": ({"a/b~c": 1}, "/a~1b~0c"),
    "prototype": ({"__proto__": {"admin": True}}, "/__proto__"),
    "customer null": ({"customer_id": None}, "/customer_id"),
    "customer empty": ({"customer_id": ""}, "/customer_id"),
    "customer too long": ({"customer_id": "c" * 101}, "/customer_id"),
    "customer with NUL": ({"customer_id": "a\0b"}, "/customer_id"),
    "customer with a control": ({"customer_id": "a\x1bb"}, "/customer_id"),
    "address with NUL": (address(line1="a\0b"), "/shipping_address/line1"),
    "address with a line break": (address(name="a\nb"), "/shipping_address/name"),
    "country unknown": (address(country="Germany"), "/shipping_address/country"),
    "address with more": (address(planet="Mars"), "/shipping_address/planet"),
    "card number": ({"payment_method": "4242 4242 4242 4242"}, "/payment_method"),
    "payment method as a list": ({"payment_method": ["pm_card_visa"]}, "/payment_method"),
}
"""Changes to a valid order, and the field that the answer must name."""


@pytest.fixture(autouse=True)
def nothing_is_placed(system: System, request: pytest.FixtureRequest) -> Any:
    """Checks that no refused request leaves an order behind."""
    count = "SELECT count(*) FROM orders"
    before = system.sql("order", count)
    yield
    if "refused" in request.node.name:
        assert system.sql("order", count) == before


@pytest.mark.parametrize("case", list(FIELDS))
@pytest.mark.row(15)
def test_a_wrong_field_is_refused_by_name(system: System, case: str) -> None:
    changes, pointer = FIELDS[case]
    answer = post(system, json.dumps(order_body() | changes).encode())
    assert answer.status == 422
    assert pointer in [error["pointer"] for error in answer.problem["errors"]]


VALID = json.dumps(order_body()).encode()
BODIES: dict[str, tuple[bytes, int, str]] = {
    "nothing": (b"", 400, "JSON"),
    "not JSON": (b"{", 400, "JSON"),
    "XML": (b"<order/>", 400, "JSON"),
    "a list": (b"[]", 422, "document"),
    "a number": (b"7", 422, "document"),
    "null": (b"null", 422, "document"),
    "empty object": (b"{}", 422, "required"),
    "two documents": (VALID + VALID, 400, "JSON"),
    "NaN": (VALID.replace(b'"quantity": 2', b'"quantity": NaN'), 422, "quantity"),
    "Infinity": (VALID.replace(b'"quantity": 2', b'"quantity": -Infinity'), 422, "quantity"),
    "1e400": (VALID.replace(b'"quantity": 2', b'"quantity": 1e400'), 422, "quantity"),
    "4,000 digits": (VALID.replace(b'"quantity": 2', b'"quantity": ' + b"9" * 4000), 422, "quantity"),
    "duplicate key": (VALID.replace(b'"quantity": 2', b'"quantity": 2, "quantity": 1'), 400, "quantity"),
    "duplicate key above": (VALID[:-1] + b', "customer_id": "c-2"}', 400, "customer_id"),
    "lone surrogate": (VALID.replace(b"c-1", rb"\ud800"), 400, "JSON"),
    "a surrogate's raw bytes": (VALID.replace(b"c-1", b"\xed\xa0\x80"), 400, ""),
    "Latin-1": (VALID.replace(b"Ada", b"Ad\xe0"), 400, ""),
    "UTF-16": (VALID.decode().encode("utf-16"), 400, ""),
    "escaped NUL": (VALID.replace(b"c-1", rb"c\u0000"), 422, "customer_id"),
    "raw NUL": (VALID.replace(b"c-1", b"c\0"), 400, "JSON"),
    "10,000 deep": (b'{"items":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, ""),
    "10,000 deep in an unknown field": (VALID[:-1] + b',"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, ""),
    "10,000 lines": (
        json.dumps(order_body(items=[{"sku": "BOOK-1", "quantity": 1}] * 10_000)).encode(), 413, "65536",
    ),
    "as many lines as fit": (
        json.dumps(order_body(items=[{"sku": "B", "quantity": 1}] * 2_000), separators=(",", ":")).encode(), 422,
        "items",
    ),
    "64 KiB + 1": (VALID + b" " * (MAX_BODY + 1 - len(VALID)), 413, "65536"),
    "a megabyte": (b"x" * 1_000_000, 413, "65536"),
}  # fmt: skip
"""Whole bodies, the status, and a word that the answer contains."""


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
    "text": ({"Content-Type": "text/plain"}, 415),
    "a form": ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "another charset": ({"Content-Type": "application/json; charset=utf-16"}, 415),
    "compressed": (JSON | {"Content-Encoding": "gzip"}, 415),
    "key too long": (JSON | {"Idempotency-Key": "k" * 256}, 422),
    "key empty": (JSON | {"Idempotency-Key": ""}, 422),
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
    "no id": ("order", "/orders/7", 404),
    "unknown id": ("order", "/orders/00000000-0000-7000-8000-000000000000", 404),
    "id in capitals": ("order", "/orders/00000000-0000-7000-8000-00000000000A", 404),
    "NUL": ("order", "/orders/%00", 404),
    "up and away": ("order", "/orders/..%2f..%2fetc%2fpasswd", 404),
    "broken escape": ("order", "/orders/%zz", 404),
    "bytes that are no UTF-8": ("order", "/orders/%ff%fe", 404),
    "unknown timeline": ("order", "/orders/00000000-0000-7000-8000-000000000000/timeline", 404),
    "limit of none": ("order", "/orders?limit=0", 422),
    "limit of too many": ("order", "/orders?limit=100000", 422),
    "limit in words": ("order", "/orders?limit=ten", 422),
    "unknown status": ("order", "/orders?status=LOST", 422),
    "unknown workflow": ("order", "/orders?workflow=telepathy", 422),
    "forged cursor": ("order", "/orders?cursor=%27%20OR%201%3D1", 422),
    "unknown parameter": ("order", "/orders?colour=red", 422),
    "parameter twice": ("order", "/orders?limit=1&limit=2", 422),
    "customer with NUL": ("order", "/orders?customer_id=%00", 422),
    "unknown SKU": ("inventory", "/stock/NOPE-1", 404),
    "no SKU": ("inventory", "/stock/%27", 404),
    "unknown reservation": ("inventory", "/reservations/00000000-0000-7000-8000-000000000000", 404),
    "unknown payment": ("payment", "/payments/00000000-0000-7000-8000-000000000000", 404),
    "unknown shipment": ("shipping", "/shipments/00000000-0000-7000-8000-000000000000", 404),
    "unknown saga": ("orchestrator", "/sagas/00000000-0000-7000-8000-000000000000", 404),
    "saga of no state": ("orchestrator", "/sagas?state=LOST", 422),
    "ledger of no order": ("payment", "/simulator/ledger?order_id=7", 422),
}


@pytest.mark.parametrize("case", list(PATHS))
def test_a_wrong_address_is_refused(system: System, case: str) -> None:
    service, path, status = PATHS[case]
    answer = talk(system, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(), service)
    assert answer.status == status


@pytest.mark.parametrize("service", SERVICES)
def test_other_methods_are_refused(system: System, service: str) -> None:
    answer = talk(system, b"DELETE /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", service)
    assert answer.status == 405
