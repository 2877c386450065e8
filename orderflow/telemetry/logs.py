"""Structured logs: one JSON object per line on stdout, without personal data."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final

import structlog

from orderflow import telemetry

_SECRET: Final = frozenset(
    {
        "address", "api_key", "authorization", "body", "card", "city", "country", "customer", "data", "database_url",
        "headers", "key", "line1", "name", "order", "password", "payload", "payment_method", "postal_code", "secret",
        "shipping_address", "snapshot", "task_token", "tasktoken", "token",
    }
)  # fmt: skip
"""Keys whose values never reach a log. This is defence in depth: no code should log them."""

_LONGEST: Final = 4000
"""Maximum characters of a value; only tracebacks come near that."""

_MASK: Final = "[removed]"

_IN_TEXT: Final = re.compile(
    r"\bpm_\w+|(?<=Bearer )\S+|\b\d{13,19}\b|(?<=input_value=).*?(?=, input_type=)|(?<=DETAIL:  ).*|(?<=://)[^/@\s]+(?=@)"
)
"""What the error texts of libraries may quote: tokens, keys, passwords, card numbers, and values in pydantic's and
PostgreSQL's errors."""

_QUOTING: Final = frozenset({"detail", "error", "event", "exception", "reason"})
"""Keys whose text may hold such quotes."""


def configure(service: str, level: str) -> None:
    """Sends structlog's and the standard library's records to stdout, one JSON object per line. Call it once."""
    shared: list[Callable[[Any, str, MutableMapping[str, Any]], Any]] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Context(service),
        structlog.processors.format_exc_info,
        mask,
    ]
    minimum = getattr(logging, level)
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_to_json)],
        wrapper_class=structlog.make_filtering_bound_logger(minimum),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_to_json),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries log warnings and errors only.
    root.setLevel(max(minimum, logging.WARNING))


def mask(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: removes the values of secret keys, at any depth, and shortens very long values."""
    for key, value in event.items():
        if key in _SECRET:
            event[key] = _MASK
        elif isinstance(value, str):
            if key in _QUOTING:
                event[key] = value = mask_text(value)
            if len(value) > _LONGEST:
                event[key] = value[:_LONGEST] + "…"
        elif isinstance(value, Mapping | list | tuple):
            event[key] = _masked(value)
    return event


@lru_cache(maxsize=512)  # nearly all calls have the same few texts, once per message
def mask_text(text: str) -> str:
    """An error's text without what libraries quote in it."""
    return _IN_TEXT.sub(_MASK, text)


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _MASK if k in _SECRET else _masked(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return value


class _Context:
    """Adds the service, and the trace of the current span unless the record names another one."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", self._service)
        if "trace_id" not in event and (found := telemetry.trace_id()):
            event["trace_id"] = found
        return event


def _to_json(event: Any, **_: Any) -> str:
    return json.dumps(event, default=str)
