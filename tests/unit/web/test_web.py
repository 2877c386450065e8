"""The HTTP kit: what every view gets without asking for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import BaseModel, ConfigDict

from orderflow.web import MAX_BODY, RequestModel, operation
from tests.support.web import ORDER, client_of, problem_of


@pytest.fixture
def client() -> FlaskClient:
    return client_of()


def good(**changes: Any) -> bytes:
    return json.dumps({"items": [{"sku": "BOOK-1", "quantity": 2}]} | changes).encode()


def line(quantity: str) -> bytes:
    return b'{"items": [{"sku": "BOOK-1", "quantity": %s}]}' % quantity.encode()


BAD = {
    "empty body": (b"", 400, None),
    "no JSON": (b"hello", 400, None),
    "NUL byte": (b"\x00", 400, None),
    "byte order mark": (b"\xef\xbb\xbf{}", 400, None),
    "not UTF-8": (b'{"note": "\xff"}', 400, None),
    "raw surrogate": (b'{"note": "\xed\xa0\x80"}', 400, None),
    "lone surrogate": (b'{"note": "\\ud800"}', 400, None),
    "depth 10,000, lists": (b"[" * 10_000, 400, None),
    "depth 10,000, closed": (b"[" * 10_000 + b"]" * 10_000, 400, None),
    "depth 10,000, objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400, None),
    "duplicate key": (b'{"items": [{"sku": "A", "sku": "B", "quantity": 1}]}', 400, None),
    "duplicate list": (b'{"items": [], "items": [{"sku": "A", "quantity": 1}]}', 400, None),
    "not an object": (b"[]", 422, ""),
    "null": (b"null", 422, ""),
    "nothing in it": (b"{}", 422, "/items"),
    "no lines": (good(items=[]), 422, "/items"),
    "too many lines": (good(items=[{"sku": "A", "quantity": 1}] * 101), 422, "/items"),
    "unknown field": (good(colour="red"), 422, "/colour"),
    "unknown field within": (good(items=[{"sku": "A", "quantity": 1, "a/b~c": 1}]), 422, "/items/0/a~1b~0c"),
    "negative": (line("-1"), 422, "/items/0/quantity"),
    "zero": (line("0"), 422, "/items/0/quantity"),
    "fraction": (line("2.5"), 422, "/items/0/quantity"),
    "whole fraction": (line("2.0"), 422, "/items/0/quantity"),
    "text for a number": (line('"2"'), 422, "/items/0/quantity"),
    "true for a number": (line("true"), 422, "/items/0/quantity"),
    "NaN": (line("NaN"), 422, "/items/0/quantity"),
    "1e400": (line("1e400"), 422, "/items/0/quantity"),
    "NaN for a float": (good().replace(b"}]}", b'}], "weight": NaN}'), 422, "/weight"),
    "1e400 for a float": (good().replace(b"}]}", b'}], "weight": 1e400}'), 422, "/weight"),
    "huge": (line("1" * 4000), 422, "/items/0/quantity"),
    "huger": (line("1" * 60_000), 400, None),
    "NUL in a text": (good(note="a\0b"), 422, "/note"),
    "unknown workflow": (good(workflow="magic"), 422, "/workflow"),
    "number for a text": (good(items=[{"sku": 1, "quantity": 1}]), 422, "/items/0/sku"),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", BAD)
def test_bad_bodies_are_refused_naming_the_place(client: FlaskClient, name: str) -> None:
    """Whatever comes in is answered by 4xx problem+json; a wrong field is named by its JSON pointer."""
    data, status, pointer = BAD[name]
    answer = client.post("/things", data=data, content_type="application/json")
    assert answer.status_code == status, answer.text
    problem = problem_of(answer)
    if pointer is not None:
        assert [e["pointer"] for e in problem["errors"]] == [pointer]


def test_a_good_body_is_taken(client: FlaskClient) -> None:
    """A view returns a model with status and headers."""
    answer = client.post(
        "/things", data=good(note="\\u0000 as text", workflow="hybrid"), content_type="application/json"
    )
    assert (answer.status_code, answer.json) == (202, {"id": ORDER, "reason": None})
    assert answer.headers["Location"] == f"/things/{ORDER}"


@pytest.mark.parametrize(
    ("content_type", "extra"),
    [
        (None, {}),
        ("text/plain", {}),
        ("application/x-www-form-urlencoded", {}),
        ("application/json; charset=latin-1", {}),
        ("application/json", {"Content-Encoding": "gzip"}),
    ],
)
def test_other_content_types_are_415(client: FlaskClient, content_type: str | None, extra: dict[str, str]) -> None:
    """Only plain JSON in UTF-8 is read."""
    answer = client.post("/things", data=good(), content_type=content_type, headers=extra)
    assert answer.status_code == 415
    problem_of(answer)


@pytest.mark.parametrize("path", ["/things", f"/things/{ORDER}/close", "/restock", "/nowhere"])
def test_long_bodies_are_413_on_every_route(client: FlaskClient, path: str) -> None:
    """Over 64 KiB is refused, whether the length is said or not, and whether the view reads the body or not."""
    long = good(note="x" * MAX_BODY)
    assert client.post(path, data=long, content_type="application/json").status_code == 413
    said = client.post(path, environ_overrides={"CONTENT_LENGTH": "99999999"})
    assert said.status_code == 413


class Endless:
    """A body that never ends, as a chunked one may; counts what was read of it."""

    def __init__(self) -> None:
        self.read_bytes = 0

    def read(self, size: int = -1) -> bytes:
        assert size > 0
        self.read_bytes += size
        return b" " * size


def test_an_endless_chunked_body_is_413_without_reading_on(client: FlaskClient) -> None:
    """A body without a length is read up to the limit, and refused."""
    endless = Endless()
    answer = client.post(
        "/things",
        content_type="application/json",
        environ_overrides={
            "wsgi.input": endless,
            "wsgi.input_terminated": True,
            "HTTP_TRANSFER_ENCODING": "chunked",
            "CONTENT_LENGTH": "",
        },
    )
    assert answer.status_code == 413
    assert endless.read_bytes <= MAX_BODY + 1


class Broken:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, size: int = -1) -> bytes:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("bad chunk"), 400), (OSError("gone"), 400), (TimeoutError(), 408), (BlockingIOError(), 408)],
)
def test_a_body_that_breaks_off_is_the_callers_fault(client: FlaskClient, error: Exception, status: int) -> None:
    """Broken chunks and stalled senders get 400 and 408, never 5xx."""
    answer = client.post(
        "/things",
        content_type="application/json",
        environ_overrides={
            "wsgi.input": Broken(error),
            "wsgi.input_terminated": True,
            "HTTP_TRANSFER_ENCODING": "chunked",
            "CONTENT_LENGTH": "",
        },
    )
    assert answer.status_code == status
    problem_of(answer)


def test_a_truncated_body_is_400(client: FlaskClient) -> None:
    """Less than Content-Length promised."""
    data = good()
    answer = client.post(
        "/things",
        content_type="application/json",
        data=data,
        environ_overrides={"CONTENT_LENGTH": str(len(data) + 10)},
    )
    assert answer.status_code == 400
    problem_of(answer)


def test_an_optional_body_may_be_left_out(client: FlaskClient) -> None:
    """No body counts as an empty object; one that is there is checked all the same."""
    assert client.post(f"/things/{ORDER}/close").json == {"limit": 20}
    assert client.post(f"/things/{ORDER}/close", json={"nope": 1}).status_code == 422


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ("limit=0", "/limit"),
        ("limit=x", "/limit"),
        ("limit=1.5", "/limit"),
        ("limit=", "/limit"),
        ("limit=" + "9" * 3000, "/limit"),
        ("limit=1&limit=2", "/limit"),
        ("workflow=magic", "/workflow"),
        ("workflow=%00", "/workflow"),
        ("page=2", "/page"),
    ],
)
def test_bad_queries_are_422(client: FlaskClient, text: str, pointer: str) -> None:
    """Unknown, repeated and wrong parameters are named."""
    answer = client.get(f"/things?{text}")
    assert answer.status_code == 422
    assert [e["pointer"] for e in problem_of(answer)["errors"]] == [pointer]


def test_a_good_query_is_taken(client: FlaskClient) -> None:
    """Text becomes what the model asks for."""
    assert client.get("/things?limit=7&workflow=step-functions").json == {"limit": 7}


@pytest.mark.parametrize(
    "path",
    [
        "/things/x/close",
        f"/things/{ORDER.upper()}a/close",
        "/stock/%00",
        "/stock/a%00b",
        "/stock/-",
        "/%00",
        "/stock/%ff",
    ],
)
def test_malformed_ids_are_404(client: FlaskClient, path: str) -> None:
    """What can't be an id is not there."""
    for answer in (client.get(path), client.post(path)):
        assert answer.status_code in (404, 405)
        problem_of(answer)


def test_errors_have_their_answers(client: FlaskClient) -> None:
    """Transient is 503 with Retry-After; a Problem is itself; others show nothing of themselves."""
    away = client.get("/fail/away")
    assert away.status_code == 503
    assert int(away.headers["Retry-After"]) <= 2
    assert "db" not in problem_of(away)["detail"].split()
    conflict = client.get("/fail/conflict")
    assert conflict.status_code == 409
    assert problem_of(conflict)["type"] == "urn:orderflow:problem:already-confirmed"
    unexpected = client.get("/fail/other")
    assert unexpected.status_code == 500
    assert "pm_card" not in unexpected.text
    assert problem_of(unexpected)["type"] == "about:blank"


def test_a_wrong_method_says_which_are_allowed(client: FlaskClient) -> None:
    """405 keeps its Allow header."""
    answer = client.put("/things")
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]
    problem_of(answer)


def test_a_request_model_must_refuse_unknown_fields() -> None:
    """A model of messages, which ignores them, is no model of requests: found when the view is declared."""

    class Tolerant(BaseModel):
        model_config = ConfigDict(extra="ignore")

    class Nested(RequestModel):
        part: Tolerant

    with pytest.raises(TypeError, match="Tolerant"):
        operation("x", body=Nested)
