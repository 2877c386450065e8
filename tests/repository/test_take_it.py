"""`docs/take-it.md` is complete: a part's files, with those that it stands on, are all of orderflow that it needs."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/take-it.md").read_text()
OURS = (
    "orderflow", "simulator", "orchestrator", "services", "deploy", "runtime", "client", "diagrams", "cli", "lab",
    "tests",
)  # fmt: skip
NONE = "\N{EN DASH}"
ROW = re.compile(r"^\| \*\*(.+?)\*\*.*? \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)

ALONE = """
import importlib, json, sys
root, ours, trees = json.load(sys.stdin)
# The checkout is installed in this environment: by a finder, or by its path.
sys.meta_path[:] = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
elsewhere = [p for p in sys.path if not p.startswith("__editable__") and p != root]
said = {}
for name, (tree, modules) in trees.items():
    for module in [m for m in sys.modules if m.partition(".")[0] in ours]:
        del sys.modules[module]
    sys.path[:] = [tree, *elsewhere]
    try:
        for module in modules:
            assert importlib.import_module(module).__file__.startswith(tree), module
        said[name] = ""
    except ImportError as error:
        said[name] = f"{module}: {error}"
json.dump(said, sys.stdout)
"""
"""Imports the modules of each tree, one after the other, without this checkout; tells the first failure of each."""


@dataclass(frozen=True)
class Part:
    """What the page lists for one part: files and packages, those that it stands on included."""

    files: frozenset[Path]
    packages: frozenset[str]


def parts() -> dict[str, Part]:
    """As the page's first table has them, in its order: a part stands on one above it."""
    found: dict[str, Part] = {}
    for name, base, files, packages in ROW.findall(TEXT):
        below = found[base] if base != NONE else Part(frozenset(), frozenset())
        named = {p.relative_to(ROOT) for f in re.findall(r"`([^`]+)`", files) for p in python(ROOT / f)}
        added = {normal(p) for p in packages.replace("[binary,pool]", "").split(", ") if p != NONE}
        found[name] = Part(below.files | named, below.packages | added)
    return found


def python(path: Path) -> list[Path]:
    return sorted(path.glob("*.py")) if path.is_dir() else [path]


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def alone(folder: Path, wanted: Mapping[str, Collection[Path]]) -> dict[str, str]:
    """Copies each part's files into a tree of its own, and imports them there; what went wrong, or nothing, by part."""
    for i, files in enumerate(wanted.values()):
        for path in files:
            (folder / str(i) / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / str(i) / path)
    trees = {
        name: (f"{folder / str(i)}", sorted(map(module_of, files))) for i, (name, files) in enumerate(wanted.items())
    }
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", ALONE],
        input=json.dumps([str(ROOT), OURS, trees]), cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return dict(json.loads(done.stdout))


PARTS = parts()
FOR = {
    "Envelope": {"orderflow/envelope.py", "orderflow/contracts.py"},
    "Messaging": {
        "orderflow/messaging/outbox.py",
        "orderflow/messaging/publisher.py",
        "orderflow/messaging/inbox.py",
        "orderflow/messaging/consumer.py",
        "orderflow/broker/aws/broker.py",
        "orderflow/broker/memory.py",
    },
    "Provider calls": {"orderflow/providers/calls.py"},
    "Saga, orchestrated": {"orchestrator/handlers.py", "orchestrator/timers.py"},
    "Saga, Step Functions": {"deploy/stack/__init__.py", "deploy/stack/state_machine.py", "orchestrator/guardian.py"},
}
WITHOUT_AWS = "Provider calls and saga, orchestrated, without AWS"
each_part = pytest.mark.parametrize("name", PARTS)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    wanted = {name: part.files for name, part in PARTS.items()}
    aws = Path("orderflow/broker/aws")
    wanted[WITHOUT_AWS] = frozenset(
        p for n in ("Saga, orchestrated", "Provider calls") for p in wanted[n] if aws not in p.parents
    )
    return alone(tmp_path_factory.mktemp("taken"), wanted)


def test_each_part_holds_what_it_is_for() -> None:
    """Files that no other one imports would not be missed otherwise."""
    assert list(PARTS) == list(FOR)
    for name, part in PARTS.items():
        assert FOR[name] <= {str(path) for path in part.files}, name


@pytest.mark.parametrize("name", [*PARTS, WITHOUT_AWS])
def test_a_part_imports_on_its_own(said: dict[str, str], name: str) -> None:
    """With the files that the page lists, and no others of orderflow."""
    assert not said[name]


@each_part
def test_a_part_needs_nothing_later(name: str) -> None:
    """Nor does what it imports only in the middle of a function, or for types, lead out of its files."""
    part = PARTS[name]
    files = {module_of(path) for path in part.files}
    for path in part.files:
        for module in imported(path):
            if module.partition(".")[0] in OURS:
                # `from a.b import c`: a module `c`, or a name in `a.b`.
                assert not (exists(module) and module not in files), f"{path} imports {module}"


@each_part
def test_a_parts_packages_are_named(name: str) -> None:
    """Or come with one that is."""
    part = PARTS[name]
    known = {normal(re.split(r"[^\w.-]", r)[0]) for p in part.packages for r in metadata.requires(p) or ()}
    for path in part.files:
        for module in imported(path):
            top = module.partition(".")[0]
            if top not in OURS and top not in sys.stdlib_module_names:
                assert {normal(o) for o in owners()[top]} & (part.packages | known), f"{path} imports {module}"


@cache
def owners() -> Mapping[str, Collection[str]]:
    """Installed packages by the module that they bring."""
    return metadata.packages_distributions()


def imported(path: Path) -> Iterable[str]:
    """Modules that a file imports anywhere, and the names that it takes from them as if they were modules."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()
