"""Limits the rate of expensive queries: the longer an answer took, the longer it is reused."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_SHARE: Final = 20
"""An answer is reused for this many times as long as it took: in an incident with hundreds of thousands of open orders,
scrapes keep the database busy for at most 5 % of the time. A quick answer is reused for some milliseconds."""


class Sparing(Generic[T]):
    """The answer of `ask`, reused according to its cost."""

    def __init__(self, ask: Callable[[], T], *, now: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._now = now
        self._known: tuple[T, float] | None = None

    def read(self) -> T:
        """The answer, new or reused. Raises what `ask` raises; errors are not reused."""
        begun = self._now()
        if self._known is None or begun >= self._known[1]:
            answer = self._ask()
            ended = self._now()
            self._known = answer, ended + (ended - begun) * _SHARE
        return self._known[0]
