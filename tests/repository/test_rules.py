"""Rules of the house that no linter has."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROCESSES = ("orderflow", "simulator", "services", "orchestrator")


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", sources(*PROCESSES), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_settings_reads_the_environment(path: Path) -> None:
    """What a process depends on is in `settings.py`; what its libraries may read, in `environment.py`."""
    if path.name in ("settings.py", "environment.py"):
        return
    used = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not used & {"os.environ", "os.getenv"}
    assert "from os import" not in path.read_text()


@pytest.mark.parametrize("path", sources(*PROCESSES, "cli", "lab"), ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_short_and_say_what_they_are(path: Path) -> None:
    """At most 300 lines, and a docstring at the top."""
    text = path.read_text()
    assert text.count("\n") <= 300
    assert not text.strip() or ast.get_docstring(ast.parse(text))
