"""README's commands, executed in the order in which they appear, in their own home and on their own ports."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.environment import PROXIES, removed
from tests.support.ports import free_ports

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"make test"}
"""This is a part of it."""


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and line not in ELSEWHERE]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_work(tmp_path: Path) -> None:
    """Each command succeeds, and prints something."""
    found = commands()
    assert "make up" in found
    assert "make demo" in found
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORDERFLOW_", "PYTEST_"))}
    environment |= {name: value for name, value in removed.items() if name.upper() in PROXIES}  # it installs packages
    environment |= free_ports() | {"ORDERFLOW_HOME": str(tmp_path / "home"), "ORDERFLOW_RUNTIME": "embedded"}
    try:
        for command in found:
            ran = subprocess.run(
                ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400
            )
            assert ran.returncode == 0, f"{command}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
            assert ran.stdout.strip(), command
            if command.startswith("WORKFLOW_MODE="):
                assert "choreography → orchestration" in ran.stdout
    finally:
        subprocess.run([".venv/bin/orderflow", "reset", "--yes"], cwd=ROOT, env=environment, capture_output=True)
