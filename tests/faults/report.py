"""The output of `make faults`: one line per test with what it measured, a bar below, and the matrix at the end."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from _pytest.terminal import TerminalReporter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.faults import matrix
from tests.faults.matrix import Result

_SIGNS: Final = {"passed": "[green]✔[/]", "failed": "[bold red]✘[/]", "skipped": "[yellow]-[/]"}
_WIDE: Final = 160
"""Columns if the output is not a terminal."""


class Report(TerminalReporter):
    """Replaces pytest's own reporter, and keeps its summary at the end."""

    def __init__(self, config: pytest.Config, console: Console, json_path: Path, options: Sequence[str]) -> None:
        super().__init__(config, console.file)
        self._console = console
        self._json_path = json_path
        self._options = options
        self._rows = config.getoption("row") or matrix.ROWS
        self._some = config.args_source is pytest.Config.ArgsSource.ARGS
        self._tests = Path(str(config.rootpath)) / "tests"
        self._about: dict[str, tuple[Sequence[int], Any]] = {}
        self._reports: dict[str, list[pytest.TestReport]] = {}
        self._began: dict[str, float] = {}
        self.results: list[Result] = []
        test = TextColumn("{task.fields[test]}", markup=False)
        columns = (SpinnerColumn(), MofNCompleteColumn(), BarColumn(20), TimeElapsedColumn(), test)
        self._progress = Progress(*columns, console=console, transient=True)
        self._bar = self._progress.add_task("", total=None, test="")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        super().pytest_collection_finish(session)
        for item in session.items:
            rows = sorted({number for mark in item.iter_markers("row") for number in mark.args})
            parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
            self._about[item.nodeid] = rows, matrix.workflows_of(parameters)
        self._progress.update(self._bar, total=len(session.items))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        with self._progress:
            return (yield)

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._began[nodeid] = time.monotonic()
        self._progress.update(self._bar, test=f"row {self._row_of(nodeid)}  {_short(nodeid)}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        category, _, _ = self.config.hook.pytest_report_teststatus(report=report, config=self.config)
        self._add_stats(category, [report])
        self._reports.setdefault(report.nodeid, []).append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        result = self._result(nodeid, self._reports.pop(nodeid))
        self.results.append(result)
        self._progress.advance(self._bar)
        measured = "".join(f"  {name} {value}" for name, value in result.measured.items())
        self._console.print(
            f"{_SIGNS[result.outcome]} row {self._row_of(nodeid):<6} {result.seconds:6.1f} s  ", end="", highlight=False
        )
        self._console.print(f"{_short(nodeid)}{measured or '  ' + result.reason}", markup=False, highlight=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_terminal_summary(self) -> Generator[None, None, None]:
        try:
            return (yield from super().pytest_terminal_summary())
        finally:
            self._show_matrix()

    def _show_matrix(self) -> None:
        without = set(matrix.ROWS) - matrix.tested(self._tests)
        rows = {row for row in self._rows if not self._some or any(row in r.rows for r in self.results)}
        self._console.print(matrix.table(self.results, rows, without))
        for line in matrix.reasons(self.results):
            self._console.print(line, markup=False, highlight=False)
        self._json_path.parent.mkdir(parents=True, exist_ok=True)
        self._json_path.write_text(json.dumps(matrix.as_json(self.results), indent=1, default=str) + "\n")
        self._console.print(f"as JSON: {self._json_path}", markup=False, highlight=False)
        for result in self.results:
            if result.outcome == "failed":
                command = repeat(result.test, self._options)
                self._console.print(f"repeat: {command}", markup=False, highlight=False, soft_wrap=True)

    def _result(self, nodeid: str, reports: Sequence[pytest.TestReport]) -> Result:
        rows, workflows = self._about[nodeid]
        worst = next((r for o in ("failed", "skipped") for r in reports if r.outcome == o), reports[-1])
        reason = str(worst.longrepr[2]).removeprefix("Skipped: ") if isinstance(worst.longrepr, tuple) else ""
        if worst.failed:
            reason = worst.longreprtext.strip().splitlines()[-1] if worst.longreprtext.strip() else "failed"
        seconds = time.monotonic() - self._began[nodeid]
        return Result(rows, nodeid, workflows, worst.outcome, round(seconds, 1), reason, dict(worst.user_properties))

    def _row_of(self, nodeid: str) -> str:
        return ",".join(map(str, self._about[nodeid][0]))


class Plugin:
    """Installs the report. `options`: the options of the run without which some of its tests would not exist."""

    def __init__(self, json_path: Path, options: Sequence[str]) -> None:
        self._json_path = json_path
        self._options = options
        # Tests' output is captured meanwhile: the display writes to a copy of what stdout is now.
        self._file = os.fdopen(os.dup(1), "w", buffering=1)

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        terminal = self._file.isatty()
        console = Console(file=self._file, width=None if terminal else _WIDE, force_terminal=terminal)
        config.pluginmanager.unregister(config.pluginmanager.getplugin("terminalreporter"))
        config.pluginmanager.register(Report(config, console, self._json_path, self._options), "terminalreporter")


def repeat(test: str, options: Sequence[str]) -> str:
    """The command that repeats a test with these options."""
    return f'make faults ARGS="{shlex.join([*options, "--only", test])}"'


def _short(nodeid: str) -> str:
    return nodeid.rpartition("::")[2].removeprefix("test_")
