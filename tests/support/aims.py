"""Aims in real seconds, on a machine that may have other work.

An aim ("each is gone within ten seconds") is one of a quiet machine. Where others use it too, a test that held to it
would fail at times with nothing wrong; so `--slack` says how many times as long may be taken. `make faults` takes
none, and its table shows what was measured either way.
"""

from __future__ import annotations

from typing import Final

BESIDE_OTHERS: Final = 3.0
"""The slack of a test process that runs beside others."""

_slack = 1.0


def set_slack(times: float) -> None:
    """How many times as long as its aim all may take from here on. Raises ValueError for less than once."""
    global _slack
    if not times >= 1:
        raise ValueError(f"--slack is {times}: an aim can't be made shorter")
    _slack = times


def within(seconds: float) -> float:
    """The seconds that may be taken where the aim is `seconds`."""
    return seconds * _slack
