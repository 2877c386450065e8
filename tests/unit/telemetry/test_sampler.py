"""The reservoir: every trace while there are few, so many a second under load, and what follows a request with it."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.trace import SpanKind

from orderflow.errors import ConfigurationError
from orderflow.settings import Settings, load
from orderflow.telemetry.sampler import Reservoir
from orderflow.telemetry.sdk import make_provider
from orderflow.telemetry.tracer import parent


class Clock:
    """Stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def begun(sampler: Sampler, times: int, name: str = "POST /orders") -> int:
    """How many of so many requests are recorded."""
    results = [sampler.should_sample(None, 1, name, SpanKind.SERVER) for _ in range(times)]
    return sum(result.decision is Decision.RECORD_AND_SAMPLE for result in results)


def test_a_burst_then_so_many_a_second() -> None:
    clock = Clock()
    sampler = Reservoir(10, now=clock)
    assert begun(sampler, 100) == 100
    assert begun(sampler, 50) == 0
    recorded = 0
    for _ in range(60):  # a minute of 80 requests a second
        clock.now += 1
        recorded += begun(sampler, 80)
    assert recorded == 600
    clock.now += 3600
    assert begun(sampler, 1000) == 100, "what was not used is not saved up for ever"


def test_a_rate_below_one_lets_one_through_now_and_then() -> None:
    clock = Clock()
    sampler = Reservoir(0.5, now=clock)
    assert begun(sampler, 100) == 5
    clock.now += 2
    assert begun(sampler, 100) == 1


def test_a_busy_operation_takes_nothing_from_another() -> None:
    """Somebody who polls doesn't keep the orders from being traced."""
    sampler = Reservoir(10, now=Clock())
    begun(sampler, 1000, "GET /orders/<uuid:order_id>")
    assert begun(sampler, 1) == 1


def test_paths_without_a_route_cannot_fill_memory() -> None:
    sampler = Reservoir(10, now=Clock())
    assert begun(sampler, 1) == 1
    for i in range(5000):
        begun(sampler, 1, f"/forged/{i}")
    assert len(sampler._left) < 200
    assert begun(sampler, 1) == 1


@pytest.fixture
def settings() -> Settings:
    return Settings(
        aws_endpoint_url="http://x", otel_exporter_otlp_endpoint="http://127.0.0.1:9", traces_per_second=0.1
    )


def decided(settings: Settings) -> list[bool]:
    """Whether each of three requests, one after the other, is recorded."""
    provider = make_provider("order", settings)
    try:
        tracer = provider.get_tracer("x")
        spans = [tracer.start_span("POST /orders", parent(None), SpanKind.SERVER) for _ in range(3)]
        return [span.is_recording() for span in spans]
    finally:
        provider.shutdown()


def test_it_is_the_default(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    assert decided(settings) == [True, False, False]


def test_a_standard_sampler_takes_its_place(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    chosen = settings.model_copy(update={"otel_traces_sampler": "parentbased_always_on"})
    assert decided(chosen) == [True, True, True]


@pytest.mark.parametrize("value", ["", "ALWAYS_OFF"])
def test_the_variable_is_read_as_the_sdk_reads_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Empty is not set; capitals say the same."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", value)
    assert load(aws_endpoint_url="http://x").otel_traces_sampler == (value.lower() or None)


def test_a_sampler_that_is_not_there_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK would only warn, and record everything."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_one")
    with pytest.raises(ConfigurationError, match=r"OTEL_TRACES_SAMPLER='always_one': .*'parentbased_always_on'"):
        load(aws_endpoint_url="http://x")


def test_what_a_request_causes_follows_it(settings: Settings) -> None:
    """In whatever process: the flag in `traceparent` says whether its trace is recorded."""
    provider = make_provider("payment", settings)
    try:
        tracer = provider.get_tracer("x")
        for _ in range(20):
            for flag in ("00", "01"):
                cause = parent(f"00-0123456789abcdef0123456789abcdef-0123456789abcdef-{flag}")
                assert tracer.start_span("process X", cause, SpanKind.CONSUMER).is_recording() == (flag == "01")
    finally:
        provider.shutdown()
