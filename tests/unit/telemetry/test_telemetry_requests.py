"""Requests as spans: named by their routes, children of the caller's, with nothing of what callers send."""

from __future__ import annotations

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.spans import attributes, spans
from tests.support.web import client_of

ROOT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


def test_a_request_is_a_span_by_its_route(exporter: InMemorySpanExporter) -> None:
    """A child of the caller's context, named by method and route; health and documentation make none."""
    client = client_of()
    client.get("/stock/BOOK-1", headers={"traceparent": ROOT})
    client.get("/fail/other")
    for path in ("/", "/healthz", "/readyz", "/metrics", "/docs", "/docs/start.js", "/openapi.json"):
        client.get(path)
    found = spans(exporter)
    assert set(found) == {"GET /stock/<sku:sku>", "GET /fail/<what>"}
    [stock], [fail] = found["GET /stock/<sku:sku>"], found["GET /fail/<what>"]
    assert stock.parent
    assert f"{stock.parent.span_id:016x}" == ROOT[36:52]
    assert stock.kind is SpanKind.SERVER
    of_stock = attributes(stock)
    assert (of_stock["http.route"], of_stock["http.response.status_code"]) == ("/stock/<sku:sku>", 200)
    assert (of_stock["http.request.method"], of_stock["url.path"]) == ("GET", "/stock/BOOK-1")
    assert fail.parent is None
    assert fail.status.status_code is StatusCode.ERROR
    assert not fail.events, "an exception's text may quote what was handled"


def test_what_a_caller_makes_up_names_no_span(exporter: InMemorySpanExporter) -> None:
    """No path as a name, no query's text, and nothing of a body: also where the request is refused."""
    client = client_of(orderflow_auth="key", orderflow_api_keys="a", orderflow_operator_keys="b")
    client.get("/nowhere/at/all")
    client.get("/things?token=pm_card_visa", headers={"Authorization": "Bearer hunter2"})
    client.post("/things", json={"items": "pm_card_visa"}, headers={"Authorization": "Bearer a"})
    client.get("/stock/healthz?x=http://x/healthz", headers={"Authorization": "Bearer a"})
    names = [span.name for span in exporter.get_finished_spans()]
    assert names == ["GET", "GET /things", "POST /things", "GET /stock/<sku:sku>"]
    text = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "pm_card" not in text
    assert "hunter2" not in text
