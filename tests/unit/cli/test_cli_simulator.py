"""`orderflow simulator faults …`: what is asked of which provider."""

from __future__ import annotations

import json

import httpx
import pytest

from runtime import RuntimeProblem
from tests.support.cli import Terminal

NONE = {"error_rate": 0.0, "latency": 0.0, "outage": False}
SLOW = NONE | {"latency": 1.5}


def back(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=NONE | json.loads(request.content))


ROUTES = {
    "GET payment/simulator/faults": SLOW, "GET shipping/simulator/faults": NONE,
    "PUT payment/simulator/faults": back, "PUT shipping/simulator/faults": back,
}  # fmt: skip


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(monkeypatch)


def puts(terminal: Terminal) -> dict[str, object]:
    return {r.url.host: json.loads(r.content) for r in terminal.requests if r.method == "PUT"}


def test_show_tells_of_both(terminal: Terminal) -> None:
    found = terminal.run("simulator", "faults", "show", "--json", routes=ROUTES)
    assert json.loads(found.stdout) == {"payment": SLOW, "shipping": NONE}
    assert "1.5 s" in terminal.run("simulator", "faults", "show", routes=ROUTES).stdout


def test_set_keeps_what_is_not_named(terminal: Terminal) -> None:
    terminal.run("simulator", "faults", "set", "--error-rate", "0.05", routes=ROUTES)
    assert puts(terminal) == {"payment": SLOW | {"error_rate": 0.05}, "shipping": NONE | {"error_rate": 0.05}}


def test_set_can_be_for_one_provider(terminal: Terminal) -> None:
    terminal.run("simulator", "faults", "set", "-p", "shipping", "--outage", routes=ROUTES)
    assert puts(terminal) == {"shipping": NONE | {"outage": True}}


def test_clear_takes_all_away(terminal: Terminal) -> None:
    found = terminal.run("simulator", "faults", "clear", "--json", routes=ROUTES)
    assert puts(terminal) == {"payment": {}, "shipping": {}}
    assert json.loads(found.stdout)["payment"] == NONE


def test_set_without_a_fault_is_no_command(terminal: Terminal) -> None:
    result = terminal.run("simulator", "faults", "set", routes=ROUTES)
    assert isinstance(result.exception, RuntimeProblem)
    assert terminal.requests == []


def test_a_real_provider_has_no_faults_to_set(terminal: Terminal) -> None:
    result = terminal.run("simulator", "faults", "show", routes={})
    assert isinstance(result.exception, RuntimeProblem)
    assert "real provider" in result.exception.what
