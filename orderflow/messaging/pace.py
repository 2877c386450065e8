"""How long messages for one destination wait for company, by how long its calls take.

Under load a message that waits a moment shares its call with others, as a packet does that waits for those before it to
be acknowledged (J. Nagle, RFC 896). The slower a destination answers, the more a call costs and the less such a moment
adds; so it is measured in calls.
"""

from __future__ import annotations

from math import inf
from typing import Final

LINGER: Final = 0.015
"""Seconds that a message waits for company at least, unless it was staged alone while nothing was being sent."""

LONGEST_LINGER: Final = 0.1
"""And at most."""

_CALLS: Final = 2.0
"""Calls, in whose time others may come."""

_QUICK: Final = 0.2
"""Seconds that a call takes at most, as a rule; one that takes longer says nothing of the load."""


class Pace:
    """Of the calls to one destination. Times are monotonic seconds. One thread calls; any may ask."""

    def __init__(self) -> None:
        self._began = -inf
        self._took = 0.0

    def begin(self, now: float) -> None:
        """A call begins."""
        self._began = now

    def end(self, now: float) -> None:
        """It is over."""
        self._took = now - self._began
        self._began = -inf

    def busy(self, now: float) -> bool:
        """Whether a call is being made, and for no longer than one should take."""
        return now - self._began < _QUICK

    @property
    def linger(self) -> float:
        """Seconds that a message waits for company until it is sent."""
        return min(max(LINGER, _CALLS * self._took), LONGEST_LINGER)
