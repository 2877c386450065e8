"""The `orderflow` command, in a shell whose Python variables are somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.embedded import localstack

ROOT = Path(__file__).parents[3]
COMMAND = Path(sys.executable).with_name("orderflow")
OURS = ("cli", "client", "deploy", "diagrams", "lab", "orchestrator", "runtime", "services", "simulator")


def run(folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [COMMAND, "workflow", "show", "hybrid"], cwd=folder, env=kept | {"PYTHONPATH": path}, text=True,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with packages of others, which have our names."""
    for name in OURS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('this is another {name}')")
    return tmp_path


@pytest.mark.parametrize("more", ["", ".", str(ROOT), f"{ROOT}:"])
def test_others_packages_are_not_taken_for_ours(foreign: Path, more: str) -> None:
    """Neither from PYTHONPATH, also beside our own folder, nor from where it is called."""
    done = run(foreign, os.pathsep.join(filter(None, [str(foreign), more])))
    assert done.returncode == 0, done.stderr
    assert "hybrid" in done.stdout.lower()


def test_what_installs_is_not_told_to_put_it_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But where packages come from is."""
    elsewhere = {
        "PIP_USER": "yes",
        "PIP_TARGET": "/x",
        "PYTHONPATH": "/x",
        "UV_SYSTEM_PYTHON": "1",
        "VIRTUAL_ENV": "/x",
    }
    sources = {
        "PIP_INDEX_URL": "i",
        "UV_DEFAULT_INDEX": "d",
        "PIP_CERT": "c",
        "UV_NATIVE_TLS": "1",
        "PIP_TRUSTED_HOST": "h",
    }
    for name, value in (elsewhere | sources).items():
        monkeypatch.setenv(name, value)
    seen = tmp_path / "seen"
    assert localstack._run(["/bin/sh", "-c", f"env >{seen}"]) is None
    found = dict(line.partition("=")[::2] for line in seen.read_text().splitlines())
    assert not elsewhere.keys() & found.keys()
    assert sources.items() <= found.items()
