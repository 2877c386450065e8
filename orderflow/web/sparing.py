"""What counts many rows is asked for rarely: the longer an answer took, the longer it serves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_SHARE: Final = 20
"""An answer serves for so many times as long as it took: in an incident with hundreds of thousands of open orders, who
scrapes keeps the database busy for 5 % of the time at most. A quick one serves for some milliseconds."""


class Sparing(Generic[T]):
    """The answer of `ask`, as old as that is worth."""

    def __init__(self, ask: Callable[[], T], *, now: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._now = now
        self._known: tuple[T, float] | None = None

    def read(self) -> T:
        """Raises what `ask` raises, which is not remembered."""
        begun = self._now()
        if self._known is None or begun >= self._known[1]:
            answer = self._ask()
            ended = self._now()
            self._known = answer, ended + (ended - begun) * _SHARE
        return self._known[0]
