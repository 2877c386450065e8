"""The HTTP kit: what every service has beside its own: security headers, health, readiness, metrics, documentation."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.support.web import client_of, problem_of


@pytest.fixture
def client() -> FlaskClient:
    return client_of()


@pytest.mark.parametrize(
    "path", ["/things", "/healthz", "/nowhere", "/docs", "/openapi.json", "/metrics", "/fail/other"]
)
def test_every_answer_has_security_headers(client: FlaskClient, path: str) -> None:
    """No sniffing, no framing, no referrer, nothing but our own scripts."""
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "no-store" in headers["Cache-Control"]
    assert "Set-Cookie" not in headers


def test_health_does_not_ask_the_database(client: FlaskClient) -> None:
    """An unavailable database is no reason to restart the process."""
    assert client.get("/healthz").json == {"status": "ok", "service": "inventory"}


def test_readiness_names_what_is_missing(client: FlaskClient) -> None:
    """503, each part by its name."""
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert [e["pointer"] for e in problem_of(answer)["errors"]] == ["/database"]


def test_metrics_answer_without_the_database(client: FlaskClient) -> None:
    """What can be known is shown, and that the rest can't be; routes are counted, never paths."""
    client.get(f"/stock/{'x' * 30}")
    client.get("/nowhere/at/all")
    text = client.get("/metrics").text
    assert "orderflow_database_up 0.0" in text
    assert "orderflow_orders_open 3.0" in text
    assert 'route="/stock/<sku:sku>"' in text
    assert "xxx" not in text
    assert "nowhere" not in text


def test_the_docs_load_nothing_from_elsewhere(client: FlaskClient) -> None:
    """Swagger UI comes from here, without inline scripts."""
    page = client.get("/docs")
    assert "http" not in page.text.replace("http-equiv", "")
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js", "favicon-32x32.png"):
        assert client.get(f"/docs/{name}").status_code == 200
    assert client.get("/docs/../pyproject.toml").status_code == 404
    assert client.get("/docs/oauth2-redirect.html").status_code == 404
