"""`.env.example` names every setting, and none that there isn't."""

from __future__ import annotations

import re
from pathlib import Path

from orderflow.settings import Settings
from runtime.containers.docker import COMPOSE_FILE
from runtime.containers.system import OWN_SETTINGS
from runtime.plan import PORTS

TEXT = (Path(__file__).parents[2] / ".env.example").read_text()
ELSEWHERE = {"ORDERFLOW_RUNTIME", "ORDERFLOW_HOME", "COMPOSE_PROJECT_NAME", *OWN_SETTINGS}
STANDARD = {"OTEL_TRACES_SAMPLER_ARG", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"}


def test_every_setting_is_named() -> None:
    """In a line of its own, or, where a user has no business with it, in the last lines."""
    named = set(re.findall(r"\b[A-Z][A-Z_]+[A-Z]\b", TEXT))
    assert {name.upper() for name in Settings.model_fields} | set(PORTS) | ELSEWHERE <= named | STANDARD


def test_no_setting_is_invented() -> None:
    assigned = set(re.findall(r"^#?([A-Z_]+)=", TEXT, re.MULTILINE))
    assert assigned <= {name.upper() for name in Settings.model_fields} | set(PORTS) | ELSEWHERE | STANDARD


def test_the_defaults_are_the_real_ones() -> None:
    """What the file shows is what a process has without it."""
    settings = Settings(aws_endpoint_url="http://x")
    for name, value in re.findall(r"^#([A-Z_]+)=(.+)$", TEXT, re.MULTILINE):
        field = name.lower()
        if field in Settings.model_fields and getattr(settings, field) is not None:
            actual = getattr(settings, field)
            shown = ",".join(f"{v:g}" for v in actual) if isinstance(actual, tuple) else actual
            assert str(shown) == value or float(shown) == float(value), name


def test_the_compose_files_defaults_are_shown() -> None:
    """Of the variables that it alone reads."""
    inner = dict(re.findall(r"\$\{([A-Z_]+):-([^${}]+)\}", COMPOSE_FILE.read_text()))
    shown = dict(re.findall(r"^#([A-Z_]+)=(.+)$", TEXT, re.MULTILINE))
    for name in ELSEWHERE & inner.keys():
        assert shown[name] == inner[name]
