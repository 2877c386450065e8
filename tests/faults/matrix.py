"""The fault matrix: its rows, and the measurements of a run, as a table and as JSON."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from orderflow.contracts import EventBus, Workflow

ROWS: Final[Mapping[int, str]] = {
    1: "random processes are killed",
    2: "a crash at every boundary",
    3: "frozen for three leases",
    4: "every message five times, and later again",
    5: "shuffled, late; compensation before command",
    6: "broker silent; broker wiped",
    7: "databases unavailable; cut at COMMIT",
    8: "process clocks wrong, stepping back",
    9: "poison at the head of the queues",
    10: "redrive after inbox and keys expired",
    11: "two outbox writers, lower id commits last",
    12: "a handler outlasts its visibility; no heartbeat",
    13: "one entry or a whole batch refused",
    14: "providers fail, are slow, don't answer",
    15: "fuzzed bodies for routes and consumers",
    16: "messages at the size cap",
    17: "one key a hundred times at once",
    18: "no reply; failing compensation; cancel races",
    19: "the last pieces, many buyers",
    20: "many workers; no collector of traces",
    21: "mode switched with orders in flight",
    22: "rolling restart under load",
    23: "rolling deploy, newer and older",
    24: "soak; backlog",
    25: "answers wait anywhere; a backlog in any order",
    26: "broker unreachable for long; a backlog in the outbox",
    27: "one destination fails; the others' messages",
    28: "rows of a newer release in every swept table",
    29: "a bug or a lock in each stage of the pipeline",
    30: "a provider unreachable for an hour",
    31: "the answer of a POST lost after its commit",
    32: "20 million rows, 600,000 open; a long reader",
    33: "the stack's filters changed, and late",
    34: "credentials, a failover, empty token buckets",
}
"""The rows: what each does to the system."""

ROUTED: Final = frozenset({1, 2, 4, 5, 6, 10, 14, 18, 20, 21, 22, 23, 25, 26, 27, 30, 33, 34})
"""Rows that run in every workflow and over both buses, with `SEEDS` for everything random; the others don't depend on
routing."""

SEEDS: Final = (1, 2, 3, 4, 5)

_MARK: Final = re.compile(r"mark\.row\(([\d, ]+)\)")
_SIGNS: Final = {"passed": "✔", "failed": "✘", "skipped": "-"}


@dataclass(frozen=True, slots=True)
class Result:
    """One test's result. No `workflows`: the test is not about them. `reason`: of a skip or a failure; `seconds`: its
    whole time."""

    rows: Sequence[int]
    test: str
    workflows: Sequence[Workflow]
    outcome: str
    seconds: float
    reason: str = ""
    measured: Mapping[str, object] = field(default_factory=dict)


def tested(tests: Path) -> set[int]:
    """Rows for which a folder has a marked test."""
    found = (_MARK.findall(path.read_text()) for path in tests.rglob("test_*.py"))
    return {int(number) for marks in found for mark in marks for number in mark.split(",") if number.strip()}


def workflows_of(parameters: Iterable[Any]) -> list[Workflow]:
    """The workflows that a test's parameters name: alone, with a bus, or several of them."""
    found: set[Workflow] = set()
    for value in parameters:
        if isinstance(value, Workflow):
            found.add(value)
        elif isinstance(value, tuple) and value and all(isinstance(v, (Workflow, EventBus, tuple)) for v in value):
            found.update(workflows_of(value))
    return [workflow for workflow in Workflow if workflow in found]


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The tests of each row."""
    return [
        {"row": row, "fault": fault, "routed": row in ROUTED, "tests": [asdict(r) for r in results if row in r.rows]}
        for row, fault in ROWS.items()
    ]


def table(results: Sequence[Result], rows: Collection[int], without_test: Collection[int]) -> Table:
    """Rows by workflows. A test of several workflows at once counts in each."""
    made = Table(title="fault matrix", header_style="bold", row_styles=["", "dim"])
    made.add_column("row", justify="right")
    made.add_column("fault")
    for heading in (*(w.value for w in Workflow), "no routing"):
        made.add_column(heading)
    made.add_column("measured", overflow="fold")
    for row in sorted(rows):
        of_row = [r for r in results if row in r.rows]
        cells = [_cell([r for r in of_row if w in r.workflows]) for w in Workflow]
        cells.append(_cell([r for r in of_row if not r.workflows]))
        number = f"{row} ●" if row in ROUTED else f"{row}  "
        said = measured(of_row) if of_row else "no test" if row in without_test else "no test in this selection"
        made.add_row(number, ROWS[row], *cells, said)
    return made


def measured(results: Sequence[Result]) -> str:
    """`kills 18…104, drained_s 4.2…30.1`: the range of each number over a row's tests, and their total time."""
    values: dict[str, list[float]] = defaultdict(list)
    for result in results:
        for name, value in result.measured.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values[name].append(value)
    said = [f"{name} {_range(v)}" for name, v in values.items()]
    return ", ".join([*said, f"{sum(r.seconds for r in results):.0f} s"])


def reasons(results: Sequence[Result]) -> list[str]:
    """Why tests were skipped: each reason once, with its rows."""
    rows: dict[str, set[int]] = defaultdict(set)
    for result in results:
        if result.outcome == "skipped":
            rows[result.reason].update(result.rows)
    return [f"skipped in row {', '.join(map(str, sorted(found)))}: {reason}" for reason, found in rows.items()]


def _cell(results: Sequence[Result]) -> str:
    counts = {outcome: sum(r.outcome == outcome for r in results) for outcome in _SIGNS}
    styles = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
    return " ".join(f"[{styles[o]}]{sign} {counts[o]}[/]" for o, sign in _SIGNS.items() if counts[o])


def _range(values: Sequence[float]) -> str:
    ends = (min(values), max(values)) if max(values) > min(values) else (values[0],)
    return "…".join(f"{v:.1f}" if isinstance(v, float) and abs(v) < 100 else f"{v:.0f}" for v in ends)
