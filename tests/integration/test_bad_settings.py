"""A mode or bus that doesn't exist prevents the start of the system, and of a single service."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from runtime import EmbeddedRuntime, RuntimeProblem
from tests.support.ports import free_ports
from tests.support.system import System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("system")]


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [
        ("WORKFLOW_MODE", "telepathy", ["choreography", "orchestration", "hybrid"]),
        ("EVENT_BUS", "pigeon", ["sns", "eventbridge"]),
        ("WORKFLOW_MODE", "Choreography", ["choreography", "orchestration", "hybrid"]),
    ],
)
def test_an_unknown_mode_stops_the_start(tmp_path: Any, name: str, value: str, choices: list[str]) -> None:
    """The error names the setting, its value and the valid ones; nothing is started."""
    runtime = EmbeddedRuntime(tmp_path / "home", {**free_ports(), name: value})
    with pytest.raises(RuntimeProblem) as problem:
        runtime.up()
    text = str(problem.value)
    assert name in text
    assert value in text
    assert all(choice in text for choice in choices)
    assert not runtime.running


def test_a_service_refuses_an_unknown_mode_itself(system: System) -> None:
    """A single service, as in a container where nothing else checks it: exit status 2, and the reason."""
    environment = system.runtime.env("order") | {"WORKFLOW_MODE": "telepathy"}
    done = subprocess.run(
        [sys.executable, "-m", "orderflow.serve", "order"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "WORKFLOW_MODE='telepathy'" in done.stderr
    assert "choreography" in done.stderr
