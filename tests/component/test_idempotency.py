"""`Idempotency-Key` in the HTTP kit: what counts as the same key, and whose it is."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser

from orderflow import clock
from orderflow.errors import Problem
from orderflow.serve.gunicorn import _mark_one_key
from orderflow.web.idempotency import given
from tests.support.restocking import RESTOCK, pieces, restock
from tests.support.system import order_body
from tests.support.web import client_of, problem_of
from tests.support.world import BUILD, World, world_on
from tests.unit.web.test_web_auth import KEYS, bearer


@pytest.fixture(scope="module")
def guarded(new_database: Callable[[str | None], str]) -> Iterator[World]:
    """A world whose callers show keys."""
    with world_on(new_database, **KEYS, database_pool=4) as made:
        yield made


SAME = ["k", '"k"', " k ", '"k" ', "k,k", "k, k", '"k","k"', '"k", k', "k,k,k"]


def test_one_key_however_it_is_written(world: World) -> None:
    """Quotes are syntax (a structured field's string), and what proxies or WSGI joined was one header."""
    key, before = clock.new_id(), pieces(world)
    answers = [restock(world.http("inventory"), written.replace("k", key)) for written in SAME]
    assert {a.status_code for a in answers} == {200}
    assert [a.headers.get("Idempotent-Replayed") for a in answers] == [None] + ["true"] * (len(SAME) - 1)
    assert pieces(world) == before + 5


def test_given_twice_by_two_headers(world: World) -> None:
    key, before = clock.new_id(), pieces(world)
    for value in (key, f'"{key}"'):
        headers = [("Idempotency-Key", value), ("Idempotency-Key", key)]
        assert world.http("inventory").post(RESTOCK, json={"quantity": 5}, headers=headers).status_code == 200
    assert pieces(world) == before + 5


@pytest.mark.parametrize(
    "key", ['"a,b"', '"a, b"', r'"a\"b"', r'"a\\b"', "a b", "k" * 255, '"' + "k" * 255 + '"', 'a"b', "{}:/?"]
)
def test_what_a_key_may_hold(world: World, key: str) -> None:
    """A comma within quotes is the key's own."""
    first, again = (restock(world.http("inventory"), key) for _ in range(2))
    assert (first.status_code, again.status_code, again.json) == (200, 200, first.json)
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize(
    "key",
    ["", '""', " ", "a,b", '"a","b"', "a,", ",a", '"a', '"a"b', r'"a\b"', '"a";x=1', "a\tb", "a\x7fb", "k" * 256,
     '"' + "k" * 256 + '"', "\xad"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("service", "path"), [("order", "/orders"), ("inventory", RESTOCK), ("payment", "/dlq/redrive")]
)
def test_what_is_no_key_is_refused_by_name(world: World, service: str, path: str, key: str) -> None:
    """On every route alike: empty, too long, unequal duplicates, broken quotes, control characters."""
    body = {"/orders": order_body(), RESTOCK: {"quantity": 5}}.get(path, {"all": True, "by": "ada", "why": "x"})
    answer = world.http(service).post(path, json=body, headers={"Idempotency-Key": key})
    assert answer.status_code == 422
    problem = problem_of(answer)
    assert problem["errors"][0]["pointer"] == "/Idempotency-Key"
    assert "Idempotency-Key" in problem["detail"]


LINES = [
    (["a,b"], "a,b"),
    (["a, b\\c"], "a, b\\c"),
    (["k"], "k"),
    (["k", "k"], "k"),
    (["k,k"], "k"),
    (['"k"', "k"], "k"),
    (["a", "b"], None),
    (['"a,b"', '"a,b"'], "a,b"),
]


@pytest.mark.parametrize(("lines", "means"), LINES)
def test_through_the_server(lines: list[str], means: str | None) -> None:
    """gunicorn joins lines of the same name; before it does, a bare key with a comma is told from two keys."""
    cfg = Config()
    head = "".join(f"Idempotency-Key: {line}\r\n" for line in lines)
    raw = f"POST /orders HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 0\r\n\r\n".encode()
    received = next(RequestParser(cfg, iter([raw]), ("127.0.0.1", 1)))
    _mark_one_key(None, received)
    with socket.socket() as client:
        _, environ = wsgi.create(received, client, ("127.0.0.1", 1), ("127.0.0.1", 2), cfg)
    with client_of().application.request_context(environ):
        if means is None:
            with pytest.raises(Problem, match="422"):
                given()
        else:
            assert given() == means


def test_another_request_under_it_is_refused(world: World) -> None:
    """Another body, or another path: a key is for one request. What means the same is the same."""
    key, http = clock.new_id(), world.http("inventory")
    assert restock(http, key).status_code == 200
    before = pieces(world), pieces(world, "MUG-1")
    for other in (restock(http, key, quantity=6), restock(http, key, path="/stock/MUG-1/restock")):
        assert other.status_code == 422
        assert problem_of(other)["title"] == "Idempotency key reused"
    same = http.post(RESTOCK, data=b'{ "quantity" : 5 }', content_type="application/json",
                     headers={"Idempotency-Key": key})  # fmt: skip
    assert same.headers["Idempotent-Replayed"] == "true"
    assert (pieces(world), pieces(world, "MUG-1")) == before


def test_a_refusal_is_not_kept(world: World) -> None:
    """404, 409 and 422 happened before any effect: when the cause is gone, the same request succeeds."""
    key, http = clock.new_id(), world.http("inventory")
    assert restock(http, key, path="/stock/NEW-1/restock").status_code == 404
    assert http.post(RESTOCK, json={"quantity": 0}, headers={"Idempotency-Key": key}).status_code == 422
    world.execute("inventory", "INSERT INTO stock (sku, available) VALUES ('NEW-1', 0)")
    assert restock(http, key, path="/stock/NEW-1/restock").json["available"] == 5
    full, key = 2_000_000_000, clock.new_id()
    world.execute("inventory", "UPDATE stock SET available = %s WHERE sku = 'NEW-1'", [full])
    assert restock(http, key, path="/stock/NEW-1/restock").status_code == 409
    world.execute("inventory", "UPDATE stock SET available = 0 WHERE sku = 'NEW-1'")
    assert restock(http, key, path="/stock/NEW-1/restock").json["available"] == 5


def test_each_caller_has_keys_of_its_own(guarded: World) -> None:
    """Two customers that use the same key get an order each, and each its own again."""
    key, http, body = clock.new_id(), guarded.http("order"), order_body()
    headers = [bearer(name) | {"Idempotency-Key": key} for name in ("customer-1", "customer-2")]
    one, two = (http.post("/orders", json=body, headers=h) for h in headers)
    assert (one.status_code, two.status_code) == (202, 202)
    assert one.json["id"] != two.json["id"]
    for answer, h in zip((one, two), headers, strict=True):
        assert http.post("/orders", json=body, headers=h).json == answer.json
    stored = guarded.execute("order", "SELECT scope FROM idempotency WHERE key = %s", [key])
    assert all(b"customer" not in bytes(scope) for (scope,) in stored)


def test_each_route_has_keys_of_its_own(world: World) -> None:
    key, http = {"Idempotency-Key": clock.new_id()}, world.http("payment")
    body = {"all": True, "by": "ada", "why": "x"}
    for action in ("redrive", "discard"):
        assert "Idempotent-Replayed" not in http.post(f"/dlq/{action}", json=body, headers=key).headers


def test_keys_are_forgotten_when_their_time_has_passed(world: World) -> None:
    """In every service."""
    for name, service in world.services.items():
        insert = (
            "INSERT INTO idempotency (scope, key, fingerprint, created_at) VALUES ('', %s, '', now() - %s::interval)"
        )
        world.execute(name, insert, ["old", "49 hours"])
        world.execute(name, insert, ["young", "23 hours"])
        service.prune()
        assert world.execute(name, "SELECT key FROM idempotency WHERE scope = ''") == [("young",)]


class TestFormerKeys:
    """The release before keeps keys of POST /orders in a table of its own; while both run, each knows the other's."""

    def test_what_it_accepted_is_known(self, world: World) -> None:
        key, body, http = clock.new_id(), order_body(), world.http("order")
        first = http.post("/orders", json=body, headers={"Idempotency-Key": key})
        world.execute("order", "DELETE FROM idempotency WHERE key = %s", [key])
        world.execute("order", "UPDATE idempotency_keys SET scope = NULL WHERE key = %s", [key])
        for _ in range(2):
            again = http.post("/orders", json=body, headers={"Idempotency-Key": key})
            assert (again.status_code, again.json) == (202, first.json)
            assert again.headers["Idempotent-Replayed"] == "true"
            assert again.headers["Location"] == first.headers["Location"]
        world.execute("order", "DELETE FROM idempotency WHERE key = %s", [key])
        other = http.post("/orders", json=order_body(quantity=3), headers={"Idempotency-Key": key})
        assert other.status_code == 422

    def test_what_is_accepted_now_it_knows(self, world: World) -> None:
        """By its own statement."""
        key = clock.new_id()
        placed = world.http("order").post("/orders", json=order_body(), headers={"Idempotency-Key": key})
        rows = world.execute(
            "order", "SELECT order_id::text, length(fingerprint) FROM idempotency_keys WHERE key = %s", [key]
        )
        assert rows == [(placed.json["id"], 32)]


def test_a_service_takes_no_post_that_does_not_say_why_it_may_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgotten, it shows when the application is made."""
    from orderflow.web import operation

    monkeypatch.setattr("tests.support.web.operation", lambda *a, **more: operation(*a, **more | {"idempotent": None}))
    with pytest.raises(TypeError, match="its answer can be lost"):
        client_of()


@pytest.mark.parametrize("service", list(BUILD))
def test_the_header_is_documented_where_it_counts(world: World, service: str) -> None:
    """On every POST that is not idempotent by itself, and nowhere else."""
    paths = world.http(service).get("/openapi.json").json["paths"]
    for path, methods in paths.items():
        for method, found in methods.items():
            named = "Idempotency-Key" in {p["name"] for p in found.get("parameters", ()) if p["in"] == "header"}
            assert named == (method == "post" and not path.endswith("/cancel")), (method, path)
            if named:
                answers = [r for status, r in found["responses"].items() if status < "300"]
                assert all("Idempotent-Replayed" in r["headers"] for r in answers)
