"""Removes variables that a shell, a platform or a CI service has set and no test may see. Imported first, before
anything reads them.

Kept are variables that say where things are (PATH, HOME, TMPDIR, locales, Docker) and those that choose tests.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

from orderflow.settings import Settings

_PREFIXES: Final = (
    "AWS_", "COMPOSE_", "FLASK_", "GITHUB_", "GUNICORN_", "LOCALSTACK_", "ORDERFLOW_", "OTEL_", "OTLP_", "PG", "SQS_",
)  # fmt: skip
_NAMES: Final = {name.upper() for name in Settings.model_fields} | {
    "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "DEBUG", "FORCE_COLOR", "JAEGER_PORT", "LINES", "NO_COLOR",
    "POSTGRES_PORT", "PYTHONWARNINGS", "TERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "WEB_CONCURRENCY",
}  # fmt: skip
_KEPT: Final = ("ORDERFLOW_TEST_", "ORDERFLOW_REQUIRE_")
PROXIES: Final = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
"""Tests reach nothing through a proxy, except what `make up` installs."""


def clear(environ: MutableMapping[str, str]) -> dict[str, str]:
    """Removes them, and returns what was removed."""
    foreign = [
        name
        for name in environ
        if (name.startswith(_PREFIXES) or name in _NAMES or name.upper() in PROXIES) and not name.startswith(_KEPT)
    ]
    return {name: environ.pop(name) for name in foreign}


removed: Final = clear(os.environ)
