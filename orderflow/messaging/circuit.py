"""When to retry a destination that accepted nothing: a circuit breaker with exponential back-off and full jitter.

Closed: everything is sent. Open, after a failure: nothing is sent. Half-open, at the retry time: one message is sent;
if it is accepted, the circuit closes, otherwise the next wait is about twice as long.
https://docs.aws.amazon.com/prescriptive-guidance/latest/cloud-design-patterns/circuit-breaker.html
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_SHORTEST: Final = 0.1
_FIRST: Final = 0.5
_LONGEST: Final = 10.0
"""Seconds until a destination is retried: random between the shortest and a limit that doubles from `_FIRST` to this.
Not longer, because a call every few seconds costs nothing, and the waiting messages have deadlines of a minute."""


def back_off(failures: int, longest: float = _LONGEST) -> float:
    """Seconds to wait after this many failures in a row, at random."""
    return random.uniform(_SHORTEST, min(longest, _FIRST * 2.0 ** min(failures - 1, 30)))


@dataclass(frozen=True, slots=True)
class Circuit:
    """One destination's circuit breaker, as a value: each event returns the next one. Times are `time.monotonic`'s."""

    failures: int = 0
    """In a row."""
    retry_at: float | None = None
    """When to try again; None while the circuit is closed."""

    @property
    def closed(self) -> bool:
        """Whether everything is sent."""
        return self.retry_at is None

    def failed(self, now: float) -> Circuit:
        """Nothing was accepted: open, for longer than the last time."""
        failures = self.failures + 1
        return Circuit(failures, now + back_off(failures))

    def held(self, now: float, seconds: float) -> Circuit:
        """Nothing may be sent, whatever the state of the destination: open for `seconds`."""
        return Circuit(self.failures, now + seconds)

    def succeeded(self) -> Circuit:
        """Something was accepted: closed."""
        return _CLOSED


_CLOSED: Final = Circuit()


class Outage:
    """Why a destination accepts no messages: logged when that begins, when its code changes, and when it ends."""

    def __init__(self, channel: str, target: str) -> None:
        self._about = {"channel": channel, "target": target}
        self._code: str | None = None

    def begin(self, code: str, reason: str) -> None:
        """`code`: the AWS error code, or a word of our own."""
        if code != self._code:
            self._code = code
            log.warning("destination unavailable; its messages wait", **self._about, code=code, reason=reason)

    def end(self) -> None:
        log.info("destination available again", **self._about)
        self._code = None
