"""Aims in real seconds, on a machine that may have other work.

An aim ("each process ends within ten seconds") assumes a quiet machine. If others use the machine too, a test could
fail although nothing is wrong; therefore `--slack` multiplies the time that a test may take. `make faults` allows no
slack, and its table shows what was measured either way.
"""

from __future__ import annotations

from typing import Final

BESIDE_OTHERS: Final = 3.0
"""The slack of a test process that runs beside others."""

_slack = 1.0


def set_slack(times: float) -> None:
    """Sets the factor by which every aim may be exceeded from now on. Raises ValueError if it is less than 1."""
    global _slack
    if not times >= 1:
        raise ValueError(f"--slack is {times}: an aim can't be made shorter")
    _slack = times


def within(seconds: float) -> float:
    """The seconds that a test may take if its aim is `seconds`."""
    return seconds * _slack
