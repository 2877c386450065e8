"""How long messages for one destination wait for others to share their call, measured by how long its calls take.

Under load, a message that waits a moment shares its call with others, like a packet that waits until earlier ones are
acknowledged (J. Nagle, RFC 896). The slower a destination answers, the more a call costs and the less a wait matters;
so the wait is measured in calls.
"""

from __future__ import annotations

from math import inf
from typing import Final

LINGER: Final = 0.015
"""Minimum seconds that a message waits for others, unless it was staged alone while nothing was being sent."""

LONGEST_LINGER: Final = 0.1
"""Maximum seconds that a message waits for others."""

_CALLS: Final = 2.0
"""The wait for others, as a number of calls."""

_QUICK: Final = 0.2
"""Seconds within which a call normally ends; one that takes longer says nothing about the load."""


class Pace:
    """The pace of calls to one destination. Times are monotonic seconds. One thread calls; any thread may read it."""

    def __init__(self) -> None:
        self._began = -inf
        self._took = 0.0

    def begin(self, now: float) -> None:
        """A call begins."""
        self._began = now

    def end(self, now: float) -> None:
        """The call has ended."""
        self._took = now - self._began
        self._began = -inf

    def busy(self, now: float) -> bool:
        """Whether a call is being made, and for no longer than one should take."""
        return now - self._began < _QUICK

    @property
    def linger(self) -> float:
        """Seconds that a message waits for others before it is sent."""
        return min(max(LINGER, _CALLS * self._took), LONGEST_LINGER)
