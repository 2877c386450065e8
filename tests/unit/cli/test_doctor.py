"""`orderflow doctor`: what it makes of what it is told, and what it says of a system that is down."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from time import time
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from cli.commands import doctor_checks as checks
from cli.commands.doctor import ask
from cli.commands.doctor_checks import Finding, Told
from cli.main import app
from orderflow.routing import SERVICES
from runtime import Part
from tests.support.cli import answer, api, problem
from tests.support.ports import free_ports

GAUGES = {
    "database_up": 1.0, "database_schema_current": 1.0, "database_clock_ahead_seconds": 0.1, "outbox_messages": 2.0,
    "outbox_parked": 0.0, "outbox_lag_seconds": 0.2, "queue_drained_seconds": 1.0, "orders_open": 3.0,
    "orders_needing_attention": 0.0, "orders_overdue": 0.0,
}  # fmt: skip
HEALTHY = Told(gauges=GAUGES, dead_letters={"x-dlq": 0}, clock_ahead=0.4)
ALL = dict.fromkeys(SERVICES, HEALTHY)
DEPTHS = dict.fromkeys(SERVICES, 0)


def found(told: dict[str, Told]) -> list[Finding]:
    """What all checks make of the services."""
    return [
        *checks.services(told), *checks.databases(told), *checks.queues(told, {"payment": 7}),
        *checks.dead_letters(told, {}), *checks.outboxes(told), *checks.stuck(told), *checks.clocks(told),
    ]  # fmt: skip


def one(service: str, **gauges: float) -> dict[str, Told]:
    """All healthy but for some gauges of one service."""
    return ALL | {service: replace(HEALTHY, gauges=GAUGES | gauges)}


def test_nothing_is_wrong_with_a_healthy_system() -> None:
    assert {finding.level for finding in found(ALL)} == {"ok"}


@pytest.mark.parametrize(
    ("told", "check", "level", "says", "next_step"),
    [
        (one("order", database_up=0), "databases", "problem", "order's does not answer", "logs postgres"),
        (one("order", database_schema_current=0), "databases", "problem", "another schema", "make up"),
        (one("payment", queue_drained_seconds=90), "queues", "warning", "empty for 90 s: 7", "logs payment"),
        (one("payment", outbox_parked=2), "outboxes", "problem", "refused 2 messages of payment", "dlq list"),
        (one("payment", outbox_lag_seconds=40), "outboxes", "problem", "has waited 40 s", "logs payment"),
        (one("order", orders_needing_attention=2), "orders", "problem", "2 need an operator", "order retry"),
        (one("order", orders_overdue=1), "orders", "problem", "1 are past every deadline", "order timeline"),
        (one("order", database_clock_ahead_seconds=-9), "clocks", "warning", "order's: -9.0 s", "NTP"),
        (ALL | {"shipping": replace(HEALTHY, clock_ahead=5)}, "clocks", "warning", "shipping's clock", "NTP"),
        (ALL | {"shipping": replace(HEALTHY, dead_letters={"shipping-rule-dlq": 3})}, "dead letters", "problem",
         "3 in shipping-rule-dlq", "orderflow dlq list --service shipping"),
        (ALL | {"shipping": replace(HEALTHY, dead_letters={})}, "dead letters", "warning", "not known", ""),
        (ALL | {"shipping": replace(HEALTHY, refusal="503 Not ready: broker")}, "services", "problem",
         "shipping: 503 Not ready: broker", "logs shipping"),
        (ALL | {"order": Told(refusal="does not answer", away=True)}, "orders", "warning", "not known", "logs order"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_the_next_step(
    told: dict[str, Told], check: str, level: str, says: str, next_step: str
) -> None:
    wrong = [finding for finding in found(told) if finding.level != "ok"]
    [finding] = [finding for finding in wrong if finding.check == check]
    assert finding.level == level
    assert says in finding.text
    assert next_step in finding.way_out
    assert {f.check for f in wrong} == {check} or told["order"].away


def test_what_an_unavailable_service_would_have_told_is_not_called_fine() -> None:
    """It is one problem; everything else about it is unknown."""
    away = found(ALL | {"payment": Told(refusal="does not answer", away=True)})
    assert [f.text for f in away if f.level == "problem"] == ["payment: does not answer"]
    unknown = {f.check for f in away if f.level == "warning"}
    assert unknown == {"databases", "queues", "dead letters", "outboxes", "clocks"}


def test_a_backlog_needs_messages() -> None:
    """A consumer that just started has not seen its queue empty, and it is."""
    assert checks.queues(one("payment", queue_drained_seconds=3600), {"payment": 0})[0].level == "ok"


def test_fresh_depths_win_over_what_a_service_knows() -> None:
    told = ALL | {"payment": replace(HEALTHY, dead_letters={"payment-dlq": 3})}
    assert checks.dead_letters(told, {"payment-dlq": 0})[0].level == "ok"


def test_drift_is_told_part_by_part() -> None:
    """What is missing or different is a problem; what is there on top is a warning; no comparison is one, too."""
    parts = [
        {"name": "topic t", "state": "ok", "detail": ""},
        {"name": "rule r", "state": "missing", "detail": ""},
        {"name": "subscription of q", "state": "different", "detail": "FilterPolicy is x, not y"},
        {"name": "queue old", "state": "extra", "detail": "not in stack.yaml"},
    ]
    told = checks.stack({"parts": parts, "depths": {}}, "")
    assert [f.level for f in told] == ["problem", "problem", "warning"]
    assert "FilterPolicy is x, not y" in told[1].text
    assert all(f.way_out for f in told)
    assert checks.stack({"parts": parts[:1], "depths": {}}, "")[0].level == "ok"
    assert checks.stack(None, "LocalStack is down")[0].level == "warning"


def test_parts_that_are_not_ready_are_named() -> None:
    ready = Part("order", "ready", 1, 8001, 5.0, "http://x")
    assert [f.level for f in checks.parts([ready])] == ["ok"]
    [finding] = checks.parts([ready, replace(ready, name="payment", state="failed")])
    assert (finding.text, finding.level) == ("payment is failed", "problem")


def test_a_service_is_asked_for_its_metrics_readiness_and_clock() -> None:
    text = 'orderflow_outbox_parked 3\norderflow_dlq_messages{queue="payment-dlq"} 2\norderflow_x{a="b"} 1\n'
    date = {"Date": formatdate(time() + 30, usegmt=True)}
    routes: dict[str, Any] = {
        "GET payment/healthz": httpx.Response(200, json={}, headers=date),
        "GET payment/metrics": httpx.Response(200, text=text),
        "GET payment/readyz": problem(503, "Not ready", "broker: does not answer"),
    }
    told = ask(api(answer(routes)), "payment")
    assert told.gauges == {"outbox_parked": 3}
    assert told.dead_letters == {"payment-dlq": 2}
    assert told.refusal == "503 Not ready: broker: does not answer"
    assert told.clock_ahead == pytest.approx(30, abs=1.5)
    assert not told.away


def run(home: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str, **ports: str) -> Result:
    """`orderflow doctor` for a home in which nothing runs."""
    for name, value in {"ORDERFLOW_RUNTIME": "embedded", "ORDERFLOW_HOME": str(home), **ports}.items():
        monkeypatch.setenv(name, value)
    return CliRunner().invoke(app, ["doctor", *arguments], env={"COLUMNS": "140"})


def test_of_a_system_that_is_down_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to start it; exit code 1, as for every problem."""
    result = run(tmp_path / "home", monkeypatch, "--json", **free_ports())
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert not told["healthy"]
    assert [(f["check"], f["level"]) for f in told["findings"]] == [("runtime", "problem"), ("start", "ok")]
    assert "isn't running" in told["findings"][0]["text"]
    assert told["findings"][0]["way_out"] == "start it: make up"
    assert not (tmp_path / "home").exists(), "it only looks"


def test_what_would_keep_it_from_starting_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A taken port by its variable."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run(tmp_path / "home", monkeypatch, **(free_ports() | {"PAYMENT_PORT": port}))
    assert result.exit_code == 1
    assert f"Port {port} (PAYMENT_PORT) is taken" in result.stdout
    assert "2 problems" in result.stdout
