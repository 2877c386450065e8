"""How long a message waits for company."""

from __future__ import annotations

import pytest

from orderflow.messaging.pace import LINGER, LONGEST_LINGER, Pace


def after(took: float) -> Pace:
    pace = Pace()
    pace.begin(100.0)
    pace.end(100.0 + took)
    return pace


@pytest.mark.parametrize(
    ("took", "seconds"),
    [(0.0, LINGER), (0.005, LINGER), (0.012, 0.024), (0.03, 0.06), (0.2, LONGEST_LINGER), (60.0, LONGEST_LINGER)],
)
def test_it_is_as_long_as_two_calls_take_within_bounds(took: float, seconds: float) -> None:
    assert after(took).linger == pytest.approx(seconds)


def test_one_that_has_not_called_yet_lingers_the_least() -> None:
    assert Pace().linger == LINGER
    assert not Pace().busy(0.0)


def test_it_is_busy_while_it_calls_and_not_while_it_hangs() -> None:
    pace = Pace()
    pace.begin(100.0)
    assert pace.busy(100.1)
    assert not pace.busy(101.0)
    pace.end(101.0)
    assert not pace.busy(101.0)
