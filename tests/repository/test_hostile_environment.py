"""A test of the tests: in the worst shell, a sample of them says the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import clear
from tests.support.postgres import Server

ROOT = Path(__file__).parents[2]
HOSTILE = {
    "GITHUB_ACTIONS": "true", "FORCE_COLOR": "1", "COLUMNS": "20", "LINES": "5", "TTY_COMPATIBLE": "1",
    "LOG_LEVEL": "NONSENSE", "WORKFLOW_MODE": "nonsense", "EVENT_BUS": "nonsense", "PAYMENT_PORT": "tcp://10.0.0.1:80",
    "ORDERFLOW_ENV": "aws", "ORDERFLOW_AUTH": "key", "ORDERFLOW_RUNTIME": "nonsense", "ORDERFLOW_HOME": "/nonsense",
    "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9",
    "AWS_PROFILE": "nonsense", "AWS_DEFAULT_REGION": "nonsense", "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "OTEL_PROPAGATORS": "nonsense", "OTEL_SDK_DISABLED": "true", "OTEL_TRACES_SAMPLER": "nonsense",
    "PGSSLMODE": "require", "PGSERVICE": "nonsense", "PGOPTIONS": "-c nonsense=1", "PGHOST": "127.0.0.9",
    "GUNICORN_CMD_ARGS": "--nonsense", "WEB_CONCURRENCY": "nonsense", "FLASK_DEBUG": "1",
}  # fmt: skip
SAMPLE = (
    "unit/cli/test_cli_views.py", "unit/cli/test_doctor.py", "unit/runtime/test_env_file.py",
    "unit/serve/test_settings.py", "unit/telemetry/test_sampler.py", "unit/telemetry/test_telemetry_export.py",
    "unit/telemetry/test_telemetry_requests.py", "unit/telemetry/test_logs.py", "unit/web/test_web_operations.py",
    "contract/test_counters.py",
)  # fmt: skip
"""For each kind of variable, those that read it, and take least time."""


def test_everything_hostile_is_removed() -> None:
    kept = {"PATH": "/bin", "HOME": "/", "TMPDIR": "/tmp", "LANG": "C", "DOCKER_HOST": "x", "CI": "1"}
    asked = {"ORDERFLOW_TEST_INFRA": "containers", "ORDERFLOW_REQUIRE_DOCKER": "1"}
    environ = HOSTILE | kept | asked
    assert clear(environ) == HOSTILE
    assert environ == kept | asked


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_sample_passes_in_a_hostile_shell(postgres: Server) -> None:
    """Terminals, logs, settings, databases, telemetry: what reads an environment."""
    base = postgres._folder.parent / "hostile"
    joins = {"PYTEST_XDIST_WORKER": "hostile"}  # the PostgreSQL that runs
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--color=no", f"--basetemp={base}",
         *(f"tests/{name}" for name in SAMPLE)],
        cwd=ROOT, env=os.environ | HOSTILE | joins, capture_output=True, text=True, timeout=230, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
