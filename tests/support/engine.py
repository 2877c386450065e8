"""What tests run on: whether there is a Docker Engine for the tests that need one (without it they are skipped, or fail
if it is required), and where LocalStack, PostgreSQL and Jaeger come from."""

from __future__ import annotations

import os

import pytest

from runtime import RuntimeProblem
from runtime.containers.docker import check_engine


def need_engine() -> None:
    """Skips the calling test and says what is missing; with ORDERFLOW_REQUIRE_DOCKER=1 (CI sets it) the test fails."""
    try:
        check_engine()
    except RuntimeProblem as problem:
        if os.environ.get("ORDERFLOW_REQUIRE_DOCKER") == "1":
            pytest.fail(f"ORDERFLOW_REQUIRE_DOCKER=1, but: {problem.what}", pytrace=False)
        pytest.skip(problem.what)


def provider() -> str:
    """Where the infrastructure comes from: `ORDERFLOW_TEST_INFRA=embedded|containers`. By default embedded (ADR 15).
    Raises ValueError for anything else."""
    chosen = os.environ.get("ORDERFLOW_TEST_INFRA") or "embedded"
    if chosen not in ("embedded", "containers"):
        raise ValueError(f"ORDERFLOW_TEST_INFRA={chosen!r} is unknown; choose one of: embedded, containers")
    return chosen
