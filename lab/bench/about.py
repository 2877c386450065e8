"""The circumstances of a run, without which its figures mean nothing."""

from __future__ import annotations

import json
import platform
import subprocess
import urllib.request
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psycopg

from lab.lines import LabProblem
from lab.system import System

_PROJECT: Final = Path(__file__).resolve().parents[2]
_PACKAGES: Final = ("boto3", "botocore", "flask", "gunicorn", "psycopg", "pydantic", "opentelemetry-sdk")


def about(system: System, machine: dict[str, Any]) -> dict[str, Any]:
    """Time, machine (as it was before the system started), commit, versions. Raises LabProblem if one is missing."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "versions": {
            "commit": _commit(),
            "python": platform.python_version(),
            "localstack": _localstack(system),
            "postgresql": _postgresql(system),
            **{package: _version(package) for package in _PACKAGES},
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(_PROJECT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _localstack(system: System) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{system.url('localstack')}/_localstack/health", timeout=10) as answer:
            return str(json.load(answer).get("version", "unknown"))
    except (OSError, ValueError) as error:
        raise LabProblem(f"LocalStack doesn't answer: {error}") from error


def _postgresql(system: System) -> str:
    try:
        with psycopg.connect(system.database("order")) as connection:
            return str(connection.execute("SHOW server_version").fetchall()[0][0])
    except psycopg.Error as error:
        raise LabProblem(f"the order database doesn't answer: {error}") from error
