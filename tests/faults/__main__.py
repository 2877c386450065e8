"""`make faults`, or `python -m tests.faults`: the fault matrix, or a part of it, with a table of what was measured."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orderflow.contracts import Workflow
from tests.faults import rotation
from tests.faults.matrix import ROUTED, ROWS, SEEDS
from tests.faults.report import Plugin


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="make faults",
        usage='make faults ARGS="[--row N]… [--workflow W] [--seed N] [--quick] [--list]"',
        description=__doc__,
        epilog=f"Rows {', '.join(map(str, sorted(ROUTED)))} run in every workflow. Without --seed, what they draw by "
        f"chance is drawn with seeds {SEEDS[0]} to {SEEDS[-1]} where all run together, with {SEEDS[0]} for each alone.",
    )
    parser.add_argument("--row", action="append", type=int, choices=ROWS, metavar="N", help="only this row; repeatable")
    parser.add_argument("--workflow", choices=list(Workflow), metavar="W", help="only this workflow")
    parser.add_argument("--seed", type=int, metavar="N", help="the seed of everything random, to repeat a run")
    parser.add_argument("--quick", action="store_true", help="small sizes, about twenty minutes")
    parser.add_argument("--only", action="append", default=[], metavar="TEST", help="this test or file; repeatable")
    parser.add_argument("--of-the-day", action="store_true", help="a part of about three minutes; it changes every day")
    parser.add_argument("--list", action="store_true", help="list the tests, run none")
    parser.add_argument(
        "--json",
        type=Path,
        default=Path(".orderflow/faults.json"),
        metavar="FILE",
        help="the file for the results (default: %(default)s)",
    )
    return parser


def that_name_tests(options: argparse.Namespace) -> list[str]:
    """The options of a run on which its tests depend: `[seed7]`, for example, exists only with `--seed 7`."""
    named = ["--quick"] if options.quick else []
    named += ["--workflow", options.workflow] if options.workflow else []
    return named + (["--seed", str(options.seed)] if options.seed is not None else [])


def main() -> int:
    """Runs pytest on the tests that are marked with rows, and returns its exit code."""
    options = parser().parse_args()
    os.chdir(Path(__file__).parents[2])
    sizes = "not full" if options.quick else "not small and (full or not full)"
    arguments = ["-p", "no:cacheprovider", "-m", f"row and {sizes} and (extra or not extra)"]
    arguments += [f"--row={row}" for row in options.row or ()]
    arguments += [f"--workflow={options.workflow}"] if options.workflow else []
    arguments += [f"--seed={options.seed}", f"--hypothesis-seed={options.seed}"] if options.seed is not None else []
    if options.of_the_day:
        options.only = rotation.of_the_day(datetime.now(UTC).date())
        print("today's part:", *options.only)
    arguments += options.only
    if options.list:
        return int(pytest.main([*arguments, "--collect-only", "-q"]))
    return int(pytest.main(arguments, plugins=[Plugin(options.json, that_name_tests(options))]))


if __name__ == "__main__":
    sys.exit(main())
