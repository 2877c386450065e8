"""Progress reports of a runtime's verbs."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, str, str], None]
"""`report(part, state, detail)`, called from several threads while `up` works."""


def silent(part: str, state: str, detail: str) -> None:
    """Discards the report."""
