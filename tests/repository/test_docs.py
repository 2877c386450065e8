"""The documents say what is so: drawings are current, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diagrams.docs import renew
from orderflow.database.pool import _SESSION

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_drawings_are_current() -> None:
    """`python -m cli.commands.workflow README.md docs/*.md` would change nothing."""
    assert renew(DOCUMENTS, check=True) == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link names a file or folder that is there."""
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("name", ["guarantees.md", "take-it.md"])
def test_files_and_tests_that_are_named_exist(name: str) -> None:
    """A promise whose proof was renamed, or is gone, is no promise."""
    text = (ROOT / "docs" / name).read_text()
    rooms = "orderflow|orchestrator|services|simulator|deploy|runtime|client|diagrams|cli|lab|localstack|tests"
    named = re.findall(rf"`((?:{rooms})/[\w/.]*)(?:::(\w+))?`", text)
    assert len(named) > 20
    for path, test in named:
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"


def test_settings_of_a_session_are_told() -> None:
    """An administrator gives them to the role that a service has behind a pooler."""
    text = (ROOT / "docs" / "operating.md").read_text()
    for name, value in _SESSION.items():
        assert re.search(rf"`{name} = '?{value}'?`", text), name
