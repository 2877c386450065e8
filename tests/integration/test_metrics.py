"""`/metrics` of a running system: the counts of its processes, including those without a port."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orderflow.routing import SERVICES
from tests.support import parts
from tests.support.ports import free_ports
from tests.support.system import KINDS, System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HANDED_IN = 30
"""Seconds within which a process has reported its counts, on a busy machine; usually five."""


def metrics(system: System, url: str) -> dict[tuple[str, ...], float]:
    """Values by metric name and label values, which are in the order of the labels' names."""
    text = system.http.get(f"{url}/metrics").text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {(s.name, *(value for _, value in sorted(s.labels.items()))): s.value for s in samples}


def test_orders_are_counted_from_their_acceptance_to_their_end(system: System) -> None:
    """Open and stuck orders, the duration of the others by workflow and outcome, and the calls to the broker."""
    system.clean()
    before = metrics(system, system.url("order"))
    ids = [system.place(kind) for kind in KINDS] + [system.place(kind, sku="SOLDOUT-1") for kind in KINDS]
    system.until_terminal(*ids)
    found = metrics(system, system.url("order"))
    assert found["orderflow_orders_open",] == system.open_orders()
    assert found["orderflow_orders_needing_attention",] == 0
    for workflow, _ in KINDS:
        for status in ("CONFIRMED", "CANCELLED"):
            key = ("orderflow_order_seconds_count", status, workflow.value)
            assert found[key] - before.get(key, 0) == 2, key  # one per bus
            took = ("orderflow_order_seconds_sum", status, workflow.value)
            assert 0 < found[took] - before.get(took, 0) < 240
    posted = ("orderflow_http_requests_total", "POST", "/orders", "202")
    assert found[posted] - before.get(posted, 0) == len(ids)
    for service in SERVICES:
        of_service = metrics(system, system.url(service))
        assert of_service["orderflow_database_up",] == 1
        assert of_service["orderflow_aws_calls_total", "ReceiveMessage", "sqs"] > 0
        assert ("orderflow_outbox_lag_seconds",) in of_service
    saga = metrics(system, system.url("orchestrator"))
    until(lambda: metrics(system, system.url("orchestrator"))["orderflow_sagas_active",] == 0, 30)
    assert saga["orderflow_sagas_needing_attention",] == 0


@contextmanager
def process(system: System, service: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """One more process of a service, with other settings."""
    environment = system.runtime.env(service) | settings
    started = subprocess.Popen([sys.executable, "-m", "orderflow.serve", service], env=environment)
    try:
        yield started
        started.terminate()
        assert started.wait(30) in (0, -15)
    finally:
        if started.poll() is None:
            started.kill()
            started.wait()


def test_a_process_without_a_port_is_counted(system: System) -> None:
    """Workers do the work; the service's web process reports it, even after they have ended."""
    port = free_ports()["INVENTORY_PORT"]
    web_url = f"http://127.0.0.1:{port}"
    parts.stop(system.runtime, "inventory")
    try:
        with process(system, "inventory", ORDERFLOW_ROLE="web", INVENTORY_PORT=port):
            until(lambda: up(system, web_url))
            before = metrics(system, web_url)
            with process(system, "inventory", ORDERFLOW_ROLE="worker"):
                system.until_terminal(*[system.place(KINDS[0]) for _ in range(3)])
                until(lambda: grown(metrics(system, web_url), before)["handled"] >= 3, HANDED_IN)
            after = grown(metrics(system, web_url), before)
            assert after["handled"] >= 3
            assert after["calls"] >= 1
    finally:
        parts.start(system.runtime, "inventory")
        system.until_ready()


def grown(now: dict[tuple[str, ...], float], before: dict[tuple[str, ...], float]) -> dict[str, float]:
    keys = {
        "handled": ("orderflow_messages_handled_total", "OrderPlaced", "done"),
        "calls": ("orderflow_aws_calls_total", "DeleteMessageBatch", "sqs"),
    }
    return {name: now.get(key, 0) - before.get(key, 0) for name, key in keys.items()}


def up(system: System, url: str) -> Any:
    try:
        return system.http.get(f"{url}/healthz").status_code == 200
    except Exception:
        return False
