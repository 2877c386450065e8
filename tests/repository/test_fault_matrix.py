"""The fault matrix: every row has a test, and the table says what was measured."""

from __future__ import annotations

import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from orderflow.contracts import EventBus, Workflow
from tests.faults import matrix
from tests.faults.__main__ import parser, that_name_tests
from tests.faults.matrix import ROWS, Result
from tests.faults.report import repeat
from tests.faults.rotation import PARTS
from tests.support.system import KINDS

TESTS = Path(__file__).parents[1]


def shown(results: list[Result], *rows: int, without: set[int] = frozenset()) -> list[str]:
    """The table's lines about rows."""
    console = Console(width=200, record=True, file=StringIO())
    console.print(matrix.table(results, rows, without))
    return [line for line in console.export_text().splitlines() if line.startswith("│")]


def test_every_row_has_a_test() -> None:
    """And none is marked with a row that there isn't."""
    assert matrix.tested(TESTS) == set(ROWS)


def test_what_a_test_is_about() -> None:
    """Its parameters name workflows alone, with a bus, or many at once."""
    assert matrix.workflows_of([3, "hybrid", None]) == []
    assert matrix.workflows_of([Workflow.HYBRID, True]) == [Workflow.HYBRID]
    assert matrix.workflows_of([(Workflow.ORCHESTRATION, EventBus.SNS)]) == [Workflow.ORCHESTRATION]
    assert matrix.workflows_of([KINDS]) == list(Workflow)


def test_the_table_counts_by_workflow() -> None:
    """A test of many workflows counts in each of them; numbers are shown with their range."""
    both = [Workflow.CHOREOGRAPHY, Workflow.HYBRID]
    results = [
        Result([1], "a", both, "passed", 10, measured={"kills": 18, "drained_s": 4.25}),
        Result([1], "b", [Workflow.HYBRID], "failed", 5, "lost an order", {"kills": 104, "note": "no number"}),
        Result([1, 3], "c", [], "skipped", 0, "no cc"),
    ]
    [row] = shown(results, 1)
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells == ["1 ●", ROWS[1], "✔ 1", "", "", "✔ 1 ✘ 1", "- 1", "kills 18…104, drained_s 4.2, 15 s"]
    assert matrix.reasons(results) == ["skipped in row 1, 3: no cc"]
    assert [len(row["tests"]) for row in matrix.as_json(results)[:3]] == [3, 0, 1]


def test_a_row_without_a_test_says_so() -> None:
    """It is not left out."""
    [first, second] = shown([], 7, 8, without={8})
    assert "no test in this selection" in first
    assert second.rstrip(" │").endswith("no test")


@pytest.mark.parametrize("asked", ["", "--quick", "--seed 0", "--quick --workflow hybrid --seed 7 --row 1 --json x"])
def test_a_failure_is_repeated_as_it_was_run(asked: str) -> None:
    """The command asks for the one test, however it is called, with those options that make its name and its size."""
    run, test = parser().parse_args(shlex.split(asked)), "tests/faults/test_messages.py::test_x[hybrid-sold out-seed7]"
    make, target, assigned = shlex.split(repeat(test, that_name_tests(run)))
    again = parser().parse_args(shlex.split(assigned.removeprefix("ARGS=")))
    assert (make, target) == ("make", "faults")
    assert again.only == [test]
    assert [again.quick, again.workflow, again.seed] == [run.quick, run.workflow, run.seed]


@pytest.mark.slow
def test_the_parts_of_all_days_are_there() -> None:
    """A test that was renamed would stop the change that comes on its day."""
    named = [test for part in PARTS for test in part]
    options = ["-p", "no:cacheprovider", "--collect-only", "-q", "-m", "row or full or extra"]
    found = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *named],
        cwd=TESTS.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-2000:]
