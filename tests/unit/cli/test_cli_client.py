"""What the command line says when a service says no, or nothing."""

from __future__ import annotations

import ssl

import httpx
import pytest

from client.api import Api, ApiProblem, verifying
from runtime.problems import RuntimeProblem
from tests.support.cli import answer, api, problem


def refused(response: httpx.Response) -> ApiProblem:
    with pytest.raises(ApiProblem) as caught:
        api(lambda request: response).get("order", "/orders")
    return caught.value


def away(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def test_a_system_that_is_down_names_the_way_to_start_it() -> None:
    """Nobody has to guess from a connection error."""
    with pytest.raises(ApiProblem) as caught:
        api(away, running=lambda: False).get("order", "/orders")
    assert caught.value.what == "orderflow isn't running."
    assert caught.value.way_out == "Start it: make up"


def test_a_service_that_is_unavailable_is_named_with_its_address() -> None:
    with pytest.raises(ApiProblem, match="The payment service does not answer at http://payment"):
        api(away).get("payment", "/payments/x")


def test_a_problem_is_shown_field_by_field() -> None:
    """With the pointers in a column, so that the reasons can be read down."""
    fields = (("/items/0/sku", "X is not for sale"), ("/payment_method", "is missing"))
    what = refused(problem(422, "Invalid order", "a line can't be ordered", *fields)).what
    assert what.splitlines() == [
        "422 Invalid order: a line can't be ordered",
        "    /items/0/sku     X is not for sale",
        "    /payment_method  is missing",
    ]


@pytest.mark.parametrize("content", ["<html>", "[]", "{}", '{"title": null, "errors": [1]}'])
def test_what_is_no_problem_document_is_told_by_its_status(content: str) -> None:
    assert refused(httpx.Response(502, content=content)).what.startswith("502 ")


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "ORDERFLOW_API_KEYS"), (403, "ORDERFLOW_OPERATOR_KEYS"), (503, "try again"), (500, "orderflow logs order")],
)
def test_every_refusal_has_a_way_out(status: int, says: str) -> None:
    assert says in refused(problem(status, "No")).way_out


def test_operators_calls_carry_the_operators_key() -> None:
    """And the others the customer's; without keys there is no header."""
    seen: list[str | None] = []

    def look(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization"))
        return httpx.Response(200, json={})

    made = api(look, api_key="customer", operator_key="operator")
    made.get("order", "/orders")
    made.post("order", "/orders/x/retry", {}, operator=True)
    api(look, operator_key="operator").get("order", "/orders")
    api(look).get("order", "/orders")
    assert seen == ["Bearer customer", "Bearer operator", "Bearer operator", None]


def test_what_is_not_asked_for_is_not_sent() -> None:
    """None leaves a parameter out; true and false are written as JSON has them."""
    asked: list[str] = []

    def look(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.query.decode())
        return httpx.Response(200, json={})

    api(look).get("order", "/orders", status=None, limit=3, stuck=True)
    assert asked == ["limit=3&stuck=true"]


def test_find_gives_none_for_what_is_not_there() -> None:
    made = api(answer({"GET payment/payments/x": problem(500, "Broken")}))
    assert made.find("payment", "/payments/y") is None
    with pytest.raises(ApiProblem):
        made.find("payment", "/payments/x")


def test_a_trace_has_a_page_only_where_there_is_jaeger() -> None:
    order = {"trace_id": "abc", "traced": True}
    assert Api({}).trace_url(order) is None
    assert Api({}, jaeger="http://jaeger").trace_url(order) == "http://jaeger/trace/abc"
    assert Api({}, jaeger="http://jaeger", jaeger_pages="http://out").trace_url(order) == "http://out/trace/abc"
    assert Api({}, jaeger="http://jaeger").trace_url({"trace_id": "abc", "traced": False}) is None


class Losing:
    """A service that does what it is asked, and whose first answers are lost."""

    def __init__(self, *lost: Exception | httpx.Response) -> None:
        self._lost = list(lost)
        self.keys: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.keys.append(request.headers["Idempotency-Key"])
        if not self._lost:
            return httpx.Response(200, json={"id": "x"})
        first = self._lost.pop(0)
        if isinstance(first, Exception):
            raise first
        return first


LOST = [httpx.ReadError("reset"), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("gone")]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr("client.api.time.sleep", found.append)
    return found


@pytest.mark.parametrize("lost", [*LOST, problem(503, "Outcome unknown")])
def test_a_post_is_repeated_once_with_its_key(lost: Exception | httpx.Response, pauses: list[float]) -> None:
    """Where the answer was lost: the service knows the key, so nothing happens twice."""
    service = Losing(lost)
    assert api(service).post("inventory", "/stock/BOOK-1/restock", {}) == {"id": "x"}
    assert len(service.keys) == 2
    assert len(set(service.keys)) == 1
    assert pauses == [2.0]


def test_every_post_has_a_key_of_its_own(pauses: list[float]) -> None:
    service = Losing()
    for key in (None, None, "mine"):
        api(service).post("order", "/orders", {}, key=key)
    assert len(set(service.keys)) == 3
    assert service.keys[2] == "mine"


def test_what_is_lost_twice_is_said_to_be_unknown(pauses: list[float]) -> None:
    service = Losing(*[problem(503, "Outcome unknown", "this may have happened")] * 2)
    with pytest.raises(ApiProblem) as caught:
        api(service).post("order", "/orders", {})
    assert "before you do it again" in caught.value.way_out
    assert len(service.keys) == 2


@pytest.mark.parametrize(
    "sure", [httpx.ConnectError("refused"), problem(503, "Service Unavailable"), problem(409, "No")]
)
def test_what_did_not_happen_is_not_repeated(sure: Exception | httpx.Response, pauses: list[float]) -> None:
    service = Losing(sure)
    with pytest.raises(ApiProblem):
        api(service).post("order", "/orders", {})
    assert len(service.keys) == 1


def test_without_https_no_certificates_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a command works, and quickly, while packages are installed again beside it."""

    def missing(*given: object, **more: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(httpx, "create_ssl_context", missing)
    monkeypatch.setattr("certifi.where", lambda: "/nowhere")
    assert Api({"order": "http://order"}, jaeger="http://jaeger", transport=None).addresses
    for addresses, jaeger in (({"order": "HTTPS://order"}, None), ({"order": "http://order"}, "https://jaeger")):
        with pytest.raises(RuntimeProblem, match="certificate authorities can't be read: No such file"):
            Api(addresses, jaeger=jaeger)


def test_certificates_are_verified_over_https() -> None:
    assert verifying("http://order").get_ca_certs() == []
    assert len(verifying("http://order", "https://jaeger").get_ca_certs()) > 20
    assert {one.verify_mode for one in (verifying("http://order"), verifying("https://order"))} == {ssl.CERT_REQUIRED}
