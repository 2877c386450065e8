"""The part of the full-size run that goes with every change: another one each day, about three minutes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

PARTS: Final[Sequence[Sequence[str]]] = (
    ("tests/faults/test_messages.py", "tests/faults/test_deploys.py::test_older_and_newer_work_together"),
    ("tests/faults/test_visibility.py",),
    ("tests/faults/test_clocks.py::test_no_lease_is_stolen",),
)
"""Tests that have passed three times in a row at full size, in parts of about three minutes."""


def of_the_day(day: date) -> Sequence[str]:
    """The same for everybody on that day."""
    return PARTS[day.toordinal() % len(PARTS)]
