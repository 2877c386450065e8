"""What callers and forgers can send to the real servers and queues: refused by name, at once, without effect."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from typing import Any, NamedTuple

import pytest

from cli.runtime import EmbeddedRuntime, RuntimeProblem
from orderflow import clock
from orderflow.contracts import (
    ConfirmOrder,
    EventBus,
    Message,
    RefundPayment,
    ReleaseStock,
    StockReserved,
    Workflow,
)
from orderflow.envelope import MAX_BYTES, compose
from orderflow.routing import SERVICES
from orderflow.web.reading import MAX_BODY
from tests.support.ports import free_ports
from tests.support.system import System, order_body, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("system")]

JSON = {"Content-Type": "application/json"}


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
    """No test of a refused request leaves an order behind."""
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
"""Whole bodies, the status, and a word of the answer."""


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
    """It needn't say its length."""
    answer = talk(system, CHUNKED + chunks(VALID, 7))
    assert answer.status == 202
    system.until_terminal(json.loads(answer.body)["id"])


def test_a_chunked_body_over_the_limit_is_refused(system: System) -> None:
    """Once it is over, without reading it to its end."""
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
    """The caller closes its side after what it sends: a body that stops short is told, not waited for."""
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


class Raw(NamedTuple):
    """An answer, as it came over the wire."""

    status: int
    body: bytes

    @property
    def problem(self) -> Any:
        return json.loads(self.body)


def post(system: System, body: bytes, headers: dict[str, str] = JSON) -> Raw:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    start = f"POST /orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    return talk(system, start.encode() + body)


def talk(system: System, data: bytes, service: str = "order") -> Raw:
    """Sends bytes, ends the sending side, and reads the answer. What is refused is so as problem+json, in under a
    second (the quickest of three times counts: this machine has other work)."""
    took = []
    while True:
        began = time.monotonic()
        answer, heading = _exchange(system, data, service)
        took.append(time.monotonic() - began)
        assert answer.status < 500, answer
        if answer.status >= 400:
            assert b"application/problem+json" in heading
            assert answer.problem["status"] == answer.status
            assert answer.problem["title"]
        if answer.status < 400 or took[-1] < 1:
            return answer
        assert len(took) < 3, f"took {took} s"


def _exchange(system: System, data: bytes, service: str) -> tuple[Raw, bytes]:
    with socket.create_connection(("127.0.0.1", system.ports[f"{service.upper()}_PORT"]), timeout=30) as connection:
        received = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it answers and closes before it has read all: that answer counts
        while b"\r\n\r\n" not in received or not _whole(received):
            part = connection.recv(65536)
            if not part:
                break
            received += part
    heading, _, body = received.partition(b"\r\n\r\n")
    return Raw(int(heading.split()[1]), body), heading.lower()


def _whole(received: bytes) -> bool:
    heading, _, body = received.partition(b"\r\n\r\n")
    lengths = [line for line in heading.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(lengths) and len(body) >= int(lengths[0].partition(b":")[2])


# Messages


def envelope(message: Message, order_id: str | None = None, **changes: Any) -> str:
    """A forged message, encoded; `changes` to its fields, None takes one away."""
    made = compose(
        message, source="forger", order_id=order_id or clock.new_id(), workflow=Workflow.ORCHESTRATION,
        event_bus=EventBus.SNS,
    )  # fmt: skip
    fields = json.loads(made.encode()) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None})


GARBLED = {
    "garbage": ("\x7fELF, or whatever this is", "no envelope"),
    "a list": ("[]", "no envelope"),
    "an empty object": ("{}", "no envelope"),
    "deep nesting": ('{"data":' + "[" * 10_000 + "]" * 10_000 + "}", "no envelope"),
    "NaN": (envelope(ReleaseStock()).replace('"data": {}', '"data": NaN'), "no envelope"),
    "no id": (envelope(ReleaseStock(), id=None), "id"),
    "an id that is none": (envelope(ReleaseStock(), id="1; DROP TABLE orders"), "id"),
    "a subject that is none": (envelope(ReleaseStock(), subject="../etc"), "subject"),
    "unknown workflow": (envelope(ReleaseStock(), workflow="telepathy"), "workflow"),
    "unknown bus": (envelope(ReleaseStock(), eventbus="pigeon"), "eventbus"),
    "unknown type": (envelope(ReleaseStock(), type="orderflow.SellTheShop.v1"), "SellTheShop"),
    "foreign type": (envelope(ReleaseStock(), type="com.example.thing"), "com.example.thing"),
    "version zero": (envelope(ReleaseStock(), type="orderflow.ReleaseStock.v0"), "ReleaseStock.v0"),
    "data of another type": (envelope(ReleaseStock(), type="orderflow.ChargePayment.v1"), "amount"),
    "negative amount": (
        envelope(ReleaseStock(), type="orderflow.ChargePayment.v1",
                 data={"amount": {"amount": -1, "currency": "EUR"}, "payment_method": "x"}), "amount"),
    "quantity zero": (
        envelope(ReleaseStock(), type="orderflow.ReserveStock.v1", data={"items": [{"sku": "BOOK-1", "quantity": 0}]}),
        "quantity"),
    "text with NUL": (
        envelope(ReleaseStock(), type="orderflow.StockRejected.v1", data={"reason": "a\0b"}), "reason"),
    "oversized": (envelope(ReleaseStock(), data={"filling": "x" * MAX_BYTES}), "cap"),
}  # fmt: skip
"""Bodies, and a word of the reason that they are parked for."""


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.row(9, 15)
def test_garbled_messages_are_parked_and_hold_nothing_up(system: System, service: str) -> None:
    """More of them than a batch, right before an order: each is in the DLQ with its reason, and the order completes."""
    effects = effects_of(system)
    system.send(service, *(body for body, _ in GARBLED.values()))
    workflows = [(Workflow.CHOREOGRAPHY, EventBus.SNS), (Workflow.ORCHESTRATION, EventBus.SNS)]
    healthy = [system.place(kind) for kind in workflows]
    assert system.until_terminal(*healthy, seconds=60) == ["CONFIRMED"] * 2
    reasons = dict(system.take_dead_letters(service, len(GARBLED)))
    assert set(reasons) == {body for body, _ in GARBLED.values()}
    for case, (body, word) in GARBLED.items():
        assert word in reasons[body], f"{case}: {reasons[body]}"
    system.check(acknowledged=healthy)
    assert effects_of(system) == effects, "nothing but the healthy orders left a trace"


def effects_of(system: System) -> dict[str, int]:
    """Rows that belong to no order."""
    known = [i for (i,) in system.sql("order", "SELECT id::text FROM orders")]
    counted = {"inventory": "reservations", "payment": "payments", "shipping": "shipments", "orchestrator": "sagas"}
    counts = {
        table: system.sql(service, f"SELECT count(*) FROM {table} WHERE NOT order_id = ANY(%s::uuid[])", known)[0][0]
        for service, table in counted.items()
    }
    ledger = system.sql("providers", "SELECT count(*) FROM ledger WHERE NOT order_id = ANY(%s::uuid[])", known)
    return counts | {"ledger": ledger[0][0]}


@pytest.mark.parametrize(
    ("service", "message"), [("order", ConfirmOrder()), ("orchestrator", StockReserved(items=()))], ids=SERVICES[::4]
)
def test_a_message_about_an_unknown_order_is_parked(system: System, service: str, message: Message) -> None:
    """By those who know all orders; it has no effect."""
    effects = effects_of(system)
    body = envelope(message)
    system.send(service, body)
    [(parked, reason)] = system.take_dead_letters(service, 1)
    assert parked == body
    assert json.loads(body)["subject"] in reason
    assert effects_of(system) == effects


def test_an_event_without_what_its_reaction_needs_is_parked(system: System) -> None:
    """Choreography's StockReserved must carry its order."""
    system.send("payment", envelope(StockReserved(items=()), workflow="choreography"))
    [(_, reason)] = system.take_dead_letters("payment", 1)
    assert "without its order" in reason


def test_what_means_nothing_to_a_service_is_acknowledged(system: System) -> None:
    """A known type without a reaction is no error: it is gone, and no dead letter."""
    effects = effects_of(system)
    system.send("shipping", envelope(RefundPayment()), envelope(ReleaseStock()))
    until(lambda: not system.depth("shipping"))
    assert not system.depth("shipping-dlq")
    assert effects_of(system) == effects


@pytest.mark.row(23)
def test_a_newer_version_waits(system: System) -> None:
    """For the consumer that knows it: it is neither parked nor lost, and nothing behind it waits."""
    newer = [envelope(ReleaseStock(), type="orderflow.ReleaseStock.v2") for _ in range(11)]
    system.send("inventory", *newer)
    until(lambda: len(system.logged("inventory", "ReleaseStock.v2 is newer")) >= 22, what=lambda: "received twice")
    order_id = system.place((Workflow.ORCHESTRATION, EventBus.SNS))
    assert system.until_terminal(order_id, seconds=60) == ["CONFIRMED"]
    assert system.depth("inventory") == 11
    assert not system.depth("inventory-dlq")
    system.aws("sqs").purge_queue(QueueUrl=system.queue("inventory"))
    until(lambda: not system.depth("inventory"))


# Settings


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [
        ("WORKFLOW_MODE", "telepathy", ["choreography", "orchestration", "hybrid"]),
        ("EVENT_BUS", "pigeon", ["sns", "eventbridge"]),
        ("WORKFLOW_MODE", "Choreography", ["choreography", "orchestration", "hybrid"]),
    ],
)
def test_an_unknown_mode_stops_the_start(tmp_path: Any, name: str, value: str, choices: list[str]) -> None:
    """Naming the setting, its value and what there is; nothing is started."""
    runtime = EmbeddedRuntime(tmp_path / "home", {**free_ports(), name: value})
    with pytest.raises(RuntimeProblem) as problem:
        runtime.up()
    text = str(problem.value)
    assert name in text
    assert value in text
    assert all(choice in text for choice in choices)
    assert not runtime.running


def test_a_service_refuses_an_unknown_mode_itself(system: System) -> None:
    """As in a container, where nothing else checks: exit status 2, and why."""
    environment = system.runtime.env("order") | {"WORKFLOW_MODE": "telepathy"}
    done = subprocess.run(
        [sys.executable, "-m", "orderflow.serve", "order"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "WORKFLOW_MODE='telepathy'" in done.stderr
    assert "choreography" in done.stderr
