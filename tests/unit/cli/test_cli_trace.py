"""`orderflow order trace`: what is waited for, and how it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from rich.console import Console

from cli.commands import trace
from cli.commands.trace import from_timeline, tree, waterfall
from client.timeline import timeline_of
from tests.support.cli import MOVED, ORDER, TIMELINE, api, shown


def span(number: int, parent: int | None, start: int, took: int, **tags: Any) -> Any:
    references = [] if parent is None else [{"refType": "CHILD_OF", "spanID": str(parent)}]
    listed = [{"key": f"otel.{key}", "value": value} for key, value in tags.items()]
    return {
        "spanID": str(number), "operationName": f"span {number}", "references": references, "startTime": start,
        "duration": took, "processID": "p1", "tags": listed,
    }  # fmt: skip


def test_spans_become_a_tree_with_bars() -> None:
    """By parent, in order of time; an error shows its text; an orphan is a root of its own."""
    spans = [span(3, 1, 1500, 200, status_code="ERROR", status_description="card declined"),
             span(1, None, 1000, 1000), span(2, 1, 1100, 100), span(9, 8, 1900, 10)]  # fmt: skip
    roots = tree({"processes": {"p1": {"serviceName": "payment"}}, "spans": spans})
    assert [(d, b.name) for r in roots for d, b in r.flat()] == [
        (0, "span 1"), (1, "span 2"), (1, "span 3"), (0, "span 9"),
    ]  # fmt: skip
    text = shown(waterfall(roots, Console(width=100)))
    assert "✗ card declined" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    bars = [line for line in text.splitlines() if "█" in line]
    assert bars[0].count("█") > 5 * bars[1].count("█")


def test_without_jaeger_the_timeline_is_drawn() -> None:
    bars = from_timeline(MOVED)
    assert [b.name for b in bars] == [e["type"] for e in TIMELINE["entries"]]
    assert sum(b.took for b in bars) == 140
    assert bars[3].error == "undeliverable address"
    assert from_timeline(timeline_of(dict(ORDER), {"entries": [], "waiting_for": None})) == []


@pytest.mark.parametrize(
    ("status", "age", "comes", "spans", "waits"),
    [
        ("CONFIRMED", 0, [(0, 5)], 5, 2.5),
        ("CONFIRMED", 0, [(0, 5), (1.9, 9), (2.3, 12)], 12, 5),
        ("CONFIRMED", 0, [(3.5, 12)], 12, 6),
        ("CONFIRMED", 0, [(n, n + 1) for n in range(20)], 9, 8),
        ("CONFIRMED", 6.6, [(0, 5)], 5, 1.5),
        ("CONFIRMED", 60, [(0, 5)], 5, 0),
        ("STOCK_RESERVED", 0, [(0, 5), (7, 12)], 12, 8),
        ("CONFIRMED", 0, [(0, 5), (1, 0)], 5, 2.5),
        ("CONFIRMED", 0, [], None, 8),
    ],
    ids=[
        "whole", "still coming in", "late", "coming for ever", "some seconds old", "old",
        "an order under way is quiet for long", "Jaeger fails once it was read", "Jaeger has none",
    ],
)  # fmt: skip
def test_a_trace_is_waited_for_until_it_grows_no_more(
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    age: float,
    comes: Sequence[tuple[float, int]],
    spans: int | None,
    waits: float,
) -> None:
    """For as long as a process keeps its spans, and up to 8 s after the order's last update. `comes`: (second, spans)
    that Jaeger has from then on; `waits`: seconds."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def jaeger(_: httpx.Request) -> httpx.Response:
        there = [count for since, count in comes if since <= now]
        return httpx.Response(200, json={"data": [{"spans": [{}] * there[-1]}] if there and there[-1] else []})

    monkeypatch.setattr(trace, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    updated = datetime.now(UTC) - timedelta(seconds=age)
    order = dict(ORDER) | {"status": status, "updated_at": updated.isoformat()}
    found = trace.fetch(api(jaeger, jaeger="http://jaeger"), timeline_of(order, dict(TIMELINE)))
    assert (len(found["spans"]) if found else None) == spans
    assert now == waits
