"""What OpenTelemetry's variables ask for and can't be had is named, and never keeps a service from its business."""

from __future__ import annotations

import pytest

from orderflow.environment import do_without
from tests.unit.serve.test_serve import answer, free_port, serving

PROPAGATORS = "OTEL_PROPAGATORS"


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("xray", None),
        ("tracecontext,xray", "tracecontext"),
        ("b3, baggage ,b3multi", "baggage"),
        ("nonsense,,", None),
    ],
)
def test_a_propagator_that_is_not_installed_is_done_without(given: str, left: str | None) -> None:
    """AWS advises xray for its own collectors."""
    environ = {PROPAGATORS: given}
    [said] = do_without(environ)
    assert environ.get(PROPAGATORS) == left
    assert f"{PROPAGATORS}={given!r}" in said
    assert "leave the variable out" in said


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {PROPAGATORS: ""},
        {PROPAGATORS: "tracecontext, baggage"},
        {PROPAGATORS: "none"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
    ],
)
def test_what_can_be_had_is_left_alone(environ: dict[str, str]) -> None:
    before = dict(environ)
    assert do_without(environ) == []
    assert environ == before


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
@pytest.mark.parametrize("value", ["grpc", "http/json", "nonsense"])
def test_another_protocol_is_refused_by_name(name: str, value: str) -> None:
    """Sent to a port for gRPC, spans would be lost without a word."""
    environ = {name: value}
    [said] = do_without(environ)
    assert f"{name}={value!r}" in said
    assert "4318" in said
    assert environ["OTEL_SDK_DISABLED"] == "true"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (PROPAGATORS, "xray"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x"),
        ("OTEL_PYTHON_FLASK_EXCLUDED_URLS", "("),
    ],
)
@pytest.mark.timeout(60)
def test_a_service_answers_whatever_they_say(name: str, value: str) -> None:
    port = free_port()
    settings = {"INVENTORY_PORT": port, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", name: value}
    with serving(**settings) as process:
        assert answer(port, "/healthz", process).status_code == 200
        process.terminate()
        said = process.communicate(timeout=30)[0]
    assert name in said or "OTEL_*" in said
    assert "Traceback" not in said
