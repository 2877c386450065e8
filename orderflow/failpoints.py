"""Named places where a test can make a process crash, to prove that nothing is lost there.

`CRASH_AT=point` kills the process (as kill -9 would) when it reaches the point; `point:3` when it does for the third
time. Tests within one process arm a callable instead. An unarmed point costs one check of an empty dict.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from typing import Final

from orderflow.errors import ConfigurationError

POINTS: Final = (
    "commit.before",
    "commit.after",
    "publish.before",
    "publish.after",
    "mark.before",
    "mark.after",
    "delete.before",
    "delete.after",
    "intent.before",
    "intent.after",
    "call.before",
    "call.after",
    "undo.before",
    "undo.after",
    "retry.before",
    "retry.after",
)
"""Every boundary between two effects that can't be one transaction."""

_armed: dict[str, Callable[[], None]] = {}


def reached(point: str) -> None:
    """Marks a boundary; does nothing unless a test has armed it."""
    if _armed and (action := _armed.get(point)) is not None:
        action()


def arm(point: str, action: Callable[[], None]) -> None:
    """Puts `action` at a point. Raises ConfigurationError for an unknown one."""
    check(point)
    _armed[point] = action


def disarm() -> None:
    """Removes all actions."""
    _armed.clear()


def check(spec: str) -> tuple[str, int]:
    """`point[:n]` as a point and a number. Raises ConfigurationError."""
    point, _, nth = spec.partition(":")
    if point not in POINTS:
        raise ConfigurationError(f"CRASH_AT={point!r} is unknown; choose one of: {', '.join(POINTS)}")
    if nth and not nth.isdecimal():
        raise ConfigurationError(f"CRASH_AT={spec!r}: {nth!r} is not a number; write it as {point}:3")
    return point, int(nth or 1)


def arm_crash(spec: str) -> None:
    """Makes this process kill itself when it reaches `point[:n]` for the n-th time. Raises ConfigurationError."""
    point, nth = check(spec)
    times = itertools.count(1)

    def die() -> None:
        if next(times) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    arm(point, die)
