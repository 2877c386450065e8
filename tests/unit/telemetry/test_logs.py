"""Logs: JSON, one object a line, with nobody's data in it."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydantic import BaseModel, ValidationError

from orderflow.telemetry import logs


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    logs.configure("inventory", "INFO")
    yield stream
    structlog.configure(**before)
    root.handlers[:], root.level = handlers, level


def lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_a_line_is_one_json_object(output: io.StringIO) -> None:
    """With time, level, service and what the caller says."""
    structlog.get_logger("x").info("stock\nreserved", order_id="o-1", message_id="m-1", workflow="hybrid")
    [line] = lines(output)
    assert line["event"] == "stock\nreserved"
    assert (line["level"], line["service"], line["order_id"]) == ("info", "inventory", "o-1")
    assert line["timestamp"].endswith("Z")


def test_levels_below_the_chosen_one_cost_nothing(output: io.StringIO) -> None:
    """DEBUG is silent at INFO."""
    structlog.get_logger("x").debug("quiet")
    assert lines(output) == []


def test_libraries_log_the_same_way(output: io.StringIO) -> None:
    """The standard library's records too, from WARNING on."""
    logging.getLogger("botocore").info("chatter")
    logging.getLogger("psycopg.pool").warning("error connecting to %s", "postgresql://me:hunter2@db/x")
    [line] = lines(output)
    assert line["service"] == "inventory"
    assert "hunter2" not in json.dumps(line)


@pytest.mark.parametrize(
    "key", ["payment_method", "shipping_address", "tasktoken", "authorization", "body", "order", "name"]
)
def test_secret_keys_are_masked_at_any_depth(output: io.StringIO, key: str) -> None:
    """Whoever logs them."""
    log = structlog.get_logger("x")
    log.info("a", **{key: "secret-1"})
    log.info("b", found={"items": [{key: {"inner": "secret-2"}}]})
    assert "secret" not in output.getvalue()
    assert output.getvalue().count("[removed]") == 2


def test_error_texts_are_cleaned(output: io.StringIO) -> None:
    """Errors of pydantic and PostgreSQL quote the values that they complain about."""

    class Card(BaseModel):
        number: int

    log = structlog.get_logger("x")
    given = {"number": "Ada Secret"}
    try:
        Card.model_validate(given)
    except ValidationError:
        log.exception("failed")
    log.error("failed", error="duplicate key\nDETAIL:  Key (name)=(Ada Secret) already exists.")
    log.error("failed", error="token pm_card_visa, card 4242424242424242, Authorization: Bearer abc.def")
    text = output.getvalue()
    for secret in ("Ada", "pm_card", "4242424242", "abc.def"):
        assert secret not in text
    assert "ValidationError" in text


def test_very_long_values_are_shortened(output: io.StringIO) -> None:
    """A caller can't fill the disk by one request."""
    structlog.get_logger("x").info("a", path="/" + "x" * 100_000)
    assert len(output.getvalue()) < 5000
