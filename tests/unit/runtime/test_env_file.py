"""`.env` in any encoding, and uncommented line by line: it works from any folder, or one line says what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runtime.env_file import read
from runtime.home import Home
from runtime.plan import make_plan, user_settings
from runtime.problems import RuntimeProblem

EXAMPLE = (Path(__file__).parents[3] / ".env.example").read_text()
LINES = re.findall(r"^#([A-Z][A-Z_]+=.*)$", EXAMPLE, re.MULTILINE)
TEXT = "# größer\nWORKFLOW_MODE=orchestration\nORDERFLOW_OPERATOR_KEYS='schlüssel'\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_ends_of_lines(tmp_path: Path, encoding: str, newline: str) -> None:
    """Notepad and PowerShell write others than Linux does."""
    file = tmp_path / ".env"
    file.write_bytes(TEXT.replace("\n", newline).encode(encoding))
    assert read(file) == {"WORKFLOW_MODE": "orchestration", "ORDERFLOW_OPERATOR_KEYS": "schlüssel"}


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "mac-roman"])
def test_another_encoding_is_named_with_its_line(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / ".env"
    file.write_bytes(("EVENT_BUS=sns\n" + TEXT).encode(encoding))
    with pytest.raises(RuntimeProblem, match=r"\.env, line 2: not UTF-8") as problem:
        read(file)
    assert "UTF-8" in problem.value.way_out


@pytest.mark.parametrize("line", ["A='b", "=x", "A B", "export", "{"])
def test_a_line_that_says_nothing_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / ".env"
    file.write_text(f"EVENT_BUS=sns\n\n{line}\n")
    with pytest.raises(RuntimeProblem, match=r"\.env, line 3"):
        user_settings({}, file)


def test_no_file_sets_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / ".env") == {}


@pytest.mark.parametrize("line", LINES)
def test_each_line_of_the_example_may_be_uncommented(
    tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands there, and from any folder."""
    file = tmp_path / "project" / ".env"
    file.parent.mkdir()
    file.write_text(line + "\n")
    monkeypatch.chdir(tmp_path)
    settings = user_settings({}, file)
    make_plan(settings)
    if "ORDERFLOW_HOME" in settings:
        assert Home.at(settings["ORDERFLOW_HOME"]).path == file.parent / ".orderflow"


def test_all_lines_of_the_example_may_be_uncommented(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("\n".join(LINES))
    make_plan(user_settings({}, file))
