"""`docs/architecture.md` is the code's map: its rooms, names, floors and the way of a message are those of the code."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import orderflow.messaging

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILT = {"build", "dist"}
"""Folders of Python that are made here, and are nobody's room."""
WAY = re.compile(r"^(\d+)\. (.+)$", re.MULTILINE)


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_column(text: str) -> set[str]:
    """The paths in the first column of tables, without the slash of a folder."""
    cells = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    return {path.rstrip("/") for cell in cells for path in re.findall(r"`([^`]+)`", cell)}


def rooms() -> set[str]:
    """Folders with Python in them, and the kernel's folders and modules."""
    folders = [p for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in BUILT]
    top = {p.name for p in folders if next(p.rglob("*.py"), None)}
    kernel = {p for p in (ROOT / "orderflow").iterdir() if p.suffix == ".py" or next(p.rglob("*.py"), None)}
    return (top - {"orderflow"}) | {f"orderflow/{p.name}" for p in kernel if p.name != "__init__.py"}


def layers(name: str) -> list[str]:
    """The floors of one of import-linter's contracts, top first."""
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    return next(list(contract["layers"]) for contract in contracts if contract["name"] == name)


def way(text: str) -> list[str]:
    """The numbered lines of a text, each without its line breaks."""
    lines = re.sub(r"\n {2,}(?=\S)", " ", text)
    return [line for _, line in WAY.findall(lines)]


def named(text: str) -> list[str]:
    """What stands in backticks, outside of blocks."""
    return sorted(set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))))


@cache
def identifiers() -> frozenset[str]:
    """Every name in the code of all rooms: no comments, no docstrings."""
    found: set[str] = set()
    for path in (p for room in rooms() for p in (ROOT / room, *(ROOT / room).rglob("*.py")) if p.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            found.update(n for f in ("id", "name", "attr", "arg") if isinstance(n := getattr(node, f, None), str))
    return frozenset(found)


def exists(name: str) -> bool:
    """A path (from here, or of a service's files), a target of make, a table of pyproject.toml, a module, or a name."""
    if name.startswith("make "):
        return re.search(rf"^{name.removeprefix('make ')}:", (ROOT / "Makefile").read_text(), re.MULTILINE) is not None
    if "/" in name or name.endswith((".py", ".md", ".toml")):
        return any(ROOT.glob(name)) or any(ROOT.glob(f"services/*/{name}"))
    if name.startswith("tool."):
        return name.removeprefix("tool.") in PYPROJECT["tool"]
    return name in identifiers() or (ROOT / name).is_dir()


WORDS = {"|", "Idempotency-Key"}
"""In backticks, and no names of ours: the sign between neighbours on a floor; a header."""


def test_every_room_has_its_rule() -> None:
    """And no rule is left of a room that is gone."""
    assert first_column(section(PAGE, "The rooms")) == rooms()


def test_the_readme_has_the_same_rooms() -> None:
    """Its table is the short form of the page, and leads there."""
    table = section(README, "What is where")
    top = {room for room in rooms() if not room.startswith("orderflow/")} | {"orderflow"}
    assert {room for room in first_column(table) if "/" not in room} == top
    assert "](docs/architecture.md)" in table


@pytest.mark.parametrize("name", [n for n in named(PAGE) if n not in WORDS])
def test_what_the_page_names_exists(name: str) -> None:
    """Under that name."""
    assert exists(name)


@pytest.mark.parametrize("name", named(section(CONTRIBUTING, "Words")))
def test_the_words_of_the_code_are_its_words(name: str) -> None:
    """What the glossary gives in backticks is a name, or a file."""
    assert exists(name)


def test_a_name_that_is_gone_is_missed() -> None:
    """Else the test above would hold nothing."""
    assert not exists("orderflow/bus/aws.py")
    assert not exists("orderflow/outbox.py")
    assert not exists("NoSuchVerdict")
    assert not exists("make nothing")
    assert not exists("tool.nothing")


def test_the_way_of_a_message_is_that_of_the_code() -> None:
    """Word by word; at most twelve files, each of which has the function that is named."""
    told = way(section(PAGE, "The way of a message"))
    assert told == way(orderflow.messaging.__doc__ or "")
    assert 0 < len(told) <= 12
    for line in told:
        path, function = re.findall(r"`([^`]+)`", line)[:2]
        assert f"def {function}(" in (ROOT / path).read_text(), line


@pytest.mark.parametrize("name", ["The house's floors", "The kernel's floors"])
def test_the_floors_are_those_that_are_held(name: str) -> None:
    """As import-linter has them, in their order."""
    block = re.search(rf"^{name}:\n\n```text\n(.*?)\n```", PAGE, re.MULTILINE | re.DOTALL)
    assert block
    assert block[1].splitlines() == layers(name)


def test_every_room_is_on_a_floor() -> None:
    """What no floor has, may import everything. LocalStack's files are no package; tests import what they test."""
    floors = {m for name in ("The house's floors", "The kernel's floors") for f in layers(name) for m in f.split(" | ")}
    modules = {room.removesuffix(".py").replace("/", ".") for room in rooms()}
    assert floors == modules - {"localstack", "tests"} | {"orderflow"}


def test_both_ways_of_an_order_are_drawn() -> None:
    """From the routing table; `test_docs.py` sees that the drawings are current."""
    assert re.findall(r"<!-- workflow:(\S+)", PAGE) == ["choreography", "orchestration"]
