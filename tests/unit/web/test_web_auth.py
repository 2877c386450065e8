"""Keys, and posts from other sites' pages."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from orderflow.errors import ConfigurationError
from orderflow.settings import load
from tests.support.web import client_of, problem_of

KEYS: dict[str, Any] = {
    "orderflow_auth": "key",
    "orderflow_api_keys": "customer-1,customer-2",
    "orderflow_operator_keys": "operator-1",
}


@pytest.fixture(scope="module")
def guarded() -> FlaskClient:
    return client_of(**KEYS)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", ["customer-1", "customer-2", "operator-1"])
def test_any_key_opens_the_api(guarded: FlaskClient, key: str) -> None:
    """Customers and operators may use the API."""
    assert guarded.get("/things", headers=bearer(key)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "customer-1"}, {"Authorization": "Bearer"}, {"Authorization": "Basic Y3VzdG9tZXItMQ=="}],
)
def test_without_a_key_it_is_401(guarded: FlaskClient, headers: dict[str, str]) -> None:
    """The answer says how to send one."""
    answer = guarded.get("/things", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="orderflow"'
    problem_of(answer)


@pytest.mark.parametrize("key", ["wrong", "customer-1 ,", "CUSTOMER-1", "\xff\xfe", "customer-1,customer-2"])
def test_an_unknown_key_is_401(guarded: FlaskClient, key: str) -> None:
    """Keys match whole, and byte for byte."""
    answer = guarded.get("/things", headers=bearer(key))
    assert answer.status_code == 401
    assert "invalid_token" in answer.headers["WWW-Authenticate"]


def test_operators_routes_take_operators_keys_only(guarded: FlaskClient) -> None:
    """A customer's key is 403 there, and says why."""
    refused = guarded.post("/restock", headers=bearer("customer-1"))
    assert refused.status_code == 403
    assert "insufficient_scope" in refused.headers["WWW-Authenticate"]
    problem_of(refused)
    assert guarded.post("/restock", headers=bearer("operator-1")).status_code == 200
    assert guarded.post("/restock").status_code == 401


def test_dead_letters_are_for_operators_only(guarded: FlaskClient) -> None:
    """To see them, too: they tell of other people's orders."""
    for call in (guarded.get, guarded.post):
        for path in ("/dlq",) if call == guarded.get else ("/dlq/redrive", "/dlq/discard"):
            assert call(path, headers=bearer("customer-1")).status_code == 403
            assert call(path).status_code == 401
    let_in = guarded.get("/dlq", headers=bearer("operator-1"))
    assert let_in.status_code == 503, "to a service that has no database here"


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/openapi.json", "/docs", "/docs/start.js"])
def test_health_metrics_and_docs_are_open(guarded: FlaskClient, path: str) -> None:
    """What probes and readers need has no lock."""
    assert guarded.get(path).status_code == 200


CROSS = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:9999"},
    {"Origin": "http://[bad"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
]


@pytest.mark.parametrize("headers", CROSS)
def test_posts_from_other_sites_are_refused_even_without_keys(headers: dict[str, str]) -> None:
    """A page that somebody looks at must not act on a service on their machine."""
    client = client_of()
    for path in ("/restock", "/things"):
        answer = client.post(path, headers=headers)
        assert answer.status_code == 403
        problem_of(answer)


def test_posts_from_our_own_page_and_from_programs_pass() -> None:
    """`/docs` may try the API out; programs send neither header."""
    client = client_of()
    assert client.post("/restock").status_code == 200
    assert (
        client.post("/restock", headers={"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}).status_code
        == 200
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://shop.example", "Sec-Fetch-Site": "same-origin", "Host": "127.0.0.1:8001"},
        {"Origin": "https://shop.example", "Host": "order_backend"},
        {"Origin": "https://SHOP.example"},
        {"Origin": "http://10.0.0.7:8080", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://[::1]:9999"},
    ],
)
def test_a_site_that_an_operator_trusts_may_post(headers: dict[str, str]) -> None:
    """Behind nginx, which passes its own idea of the Host on, the own page has another name."""
    named = "https://shop.example:443/, http://10.0.0.7:8080,http://[::1]:9999"
    client = client_of(orderflow_trusted_origins=named)
    assert client.post("/restock", headers=headers).status_code == 200
    for other in CROSS:
        assert client.post("/restock", headers=other).status_code == 403
    refused = client.post("/restock", headers={"Origin": "https://shop.example.evil.example"})
    assert refused.status_code == 403
    assert "ORDERFLOW_TRUSTED_ORIGINS" in problem_of(refused)["detail"]


@pytest.mark.parametrize(
    "value", ["shop.example", "https://shop.example/page", "*", "https://*.example", "null", "ftp://x"]
)
def test_what_is_no_origin_is_refused_by_name(value: str) -> None:
    with pytest.raises(ConfigurationError, match="ORDERFLOW_TRUSTED_ORIGINS"):
        load(aws_endpoint_url="http://x", orderflow_trusted_origins=value)


def test_a_rebound_name_is_another_site() -> None:
    """Somebody's DNS can make Origin and Host agree on a name that is not this machine's."""
    client = client_of()
    answer = client.post("/restock", headers={"Origin": "http://evil.example", "Host": "evil.example"})
    assert answer.status_code == 403
