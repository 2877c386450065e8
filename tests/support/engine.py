"""Whether a Docker Engine is there for the tests that need one: they are skipped without, and fail where it must be."""

from __future__ import annotations

import os

import pytest

from cli.runtime import RuntimeProblem
from cli.runtime.docker import check_engine


def need_engine() -> None:
    """Skips the calling test, saying what is missing; with ORDERFLOW_REQUIRE_DOCKER=1 (CI sets it) the test fails."""
    try:
        check_engine()
    except RuntimeProblem as problem:
        if os.environ.get("ORDERFLOW_REQUIRE_DOCKER") == "1":
            pytest.fail(f"ORDERFLOW_REQUIRE_DOCKER=1, but: {problem.what}", pytrace=False)
        pytest.skip(problem.what)
