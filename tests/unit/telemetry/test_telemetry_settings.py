"""What OpenTelemetry's variables ask for and can't be had is named, and never keeps a service from its business."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from orderflow import telemetry
from orderflow.environment import do_without
from orderflow.settings import Settings
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
    ("name", "value"), [("OTEL_BSP_MAX_QUEUE_SIZE", "10"), ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x")]
)
def test_what_the_sdk_can_not_use_costs_the_spans_only(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that is shorter than its batches, and a limit that is no number: the SDK raises, a start does not."""
    monkeypatch.setenv(name, value)
    settings = Settings(aws_endpoint_url="http://x", otel_exporter_otlp_endpoint="http://127.0.0.1:1")
    with capture_logs() as logs:
        telemetry.start("inventory", settings)
    assert telemetry.provider() is None
    [line] = logs
    assert "OTEL_*" in line["event"]
    assert line["error"]


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({PROPAGATORS: "xray", "OTEL_PYTHON_FLASK_EXCLUDED_URLS": "("}, [PROPAGATORS, "requests make no spans"]),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["OTEL_EXPORTER_OTLP_PROTOCOL"]),
    ],
    ids=["libraries", "protocol"],
)
@pytest.mark.timeout(60)
def test_a_service_answers_whatever_they_say(environ: dict[str, str], words: list[str]) -> None:
    """Libraries read these while they are imported."""
    port = free_port()
    with serving(INVENTORY_PORT=port, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", **environ) as process:
        assert answer(port, "/healthz", process).status_code == 200
        process.terminate()
        said = process.communicate(timeout=30)[0]
    for word in words:
        assert word in said
    assert "Traceback" not in said
