"""Traces and metrics of the messaging path."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from orderflow.envelope import Envelope

unheard: Counter[tuple[str, str]] = Counter()


def count_unheard(service: str, name: str) -> None:
    """A known message that this service has no reaction to."""
    unheard[service, name] += 1


def new_trace() -> str:
    """A W3C traceparent for a new trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


@contextmanager
def processing(service: str, envelopes: Sequence[Envelope]) -> Iterator[list[str | None]]:
    """The traceparents for what each message causes."""
    yield [f"{e.traceparent[:36]}{secrets.token_hex(8)}-01" if e.traceparent else None for e in envelopes]


def outcome(traceparents: Sequence[str | None], verdicts: Sequence[Any]) -> None:
    """What came of each message of the batch."""
