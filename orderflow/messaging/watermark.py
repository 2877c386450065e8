"""How far one process has read its queue: the watermark, in event time.

Every message that was sent to the queue before the watermark has been handled. The number of received messages doesn't
show that: SQS may return fewer than requested at any time, even from a long queue.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html

Two things raise it (docs/adr/0025-a-watermark-of-event-time.md). An empty *long* poll, which asks all servers, raises
it to the beginning of that poll. Under a load that never lets a poll return empty, it is raised if all messages have
been young for ten times as long as the oldest of them had waited. Messages in flight hold it back.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from orderflow.broker import Delivery

SETTLED: Final = 3.0
"""Seconds after an empty poll began until it counts: by then, others have received what was delivered to them
before."""

AGES: Final = tuple(2.0**n for n in range(1, 11))
"""Limits, in seconds, for how long messages have waited in the queue under a calm load."""

CALM: Final = 10
"""For how many times such an age a queue must have been calm. If messages are received in any order, the chance that
one is left out for so long is below e^-10, and below e^-20 if they wait half as long as the slowest."""

_PATIENCE: Final = 5.0
"""Seconds beyond the long poll within which an available broker has answered a receive."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one process knows about its queue. Times are seconds of its monotonic clock; None: not known yet."""

    empty_from: float | None
    """When the latest empty long poll began that counts (SETTLED)."""
    received_at: float | None
    """When the latest receive began that returned messages."""
    calm: float | None
    """For CALM times this long, until `received_at`, no message had waited for longer than this."""
    oldest: float | None
    """When the oldest message in flight here was sent."""
    blocked_until: float
    """When all messages that may be invisible without being known here are visible again; -inf if there are none."""

    def watermark(self) -> float | None:
        """The watermark, as far as this process alone can tell."""
        raised = []
        if self.empty_from is not None and self.empty_from >= self.blocked_until:
            raised.append(self.empty_from)
        received, calm = self.received_at, self.calm
        if received is not None and calm is not None and received - self.blocked_until >= CALM * calm:
            raised.append(received - calm)
        if not raised:
            return None
        return max(raised) if self.oldest is None else min(max(raised), self.oldest)


class Watermark:
    """Records each receive of one process and its outcome. Safe to use from several threads."""

    def __init__(self, *, long_poll: float, visibility: float, now: Callable[[], float] = time.monotonic) -> None:
        self._long_poll = long_poll
        self._visibility = visibility
        self.now = now
        self._lock = threading.Lock()
        self._empty: deque[float] = deque()
        self._in_flight: dict[str, float] = {}
        """When each message was sent, by receipt."""
        self._older_at = [self.now()] * len(AGES)
        """For each of AGES, when a message was last received that had waited for longer."""
        self._received_at: float | None = None
        self._blocked_until = -inf
        self._heard_at: float | None = None

    @property
    def hearing(self) -> bool:
        """Whether the queue answers: deadlines don't count while their owner can't hear its queue."""
        heard = self._heard_at
        return heard is not None and self.now() - heard <= self._long_poll + _PATIENCE

    def received(self, deliveries: Sequence[Delivery], began: float, wait: float) -> None:
        """Records a receive that `began` then and returned; an empty one after up to `wait` seconds."""
        with self._lock:
            self._heard_at = now = self.now()
            self._in_flight |= {d.receipt: now - d.age for d in deliveries}
            if deliveries:
                self._received_at = began
                # The age of a redelivered message doesn't say how long it waited in the queue.
                slowest = max((d.age for d in deliveries if d.receive_count == 1), default=0.0)
                self._older_at = [now if slowest > age else at for age, at in zip(AGES, self._older_at, strict=True)]
            elif wait > 0:
                self._empty.append(began)

    def failed(self, *, took_nothing: bool = False) -> None:
        """Records a failed receive. Unless it certainly had no effect, its answer may have been lost, and the messages
        in it stay invisible as if they had been received."""
        self._heard_at = None
        if not took_nothing:
            self.block(self._visibility)

    def block(self, seconds: float) -> None:
        """Records that messages may stay invisible for this many seconds without anyone holding them."""
        with self._lock:
            self._blocked_until = max(self._blocked_until, self.now() + seconds)

    def settled(self, deliveries: Sequence[Delivery]) -> None:
        """Records that these messages are no longer in flight."""
        with self._lock:
            for delivery in deliveries:
                self._in_flight.pop(delivery.receipt, None)

    def seen(self) -> Seen:
        """What is known now."""
        with self._lock:
            now = self.now()
            while len(self._empty) > 1 and self._empty[1] <= now - SETTLED:
                self._empty.popleft()
            received = self._received_at
            return Seen(
                self._empty[0] if self._empty and self._empty[0] <= now - SETTLED else None,
                received,
                None
                if received is None
                else next((a for a, at in zip(AGES, self._older_at, strict=True) if received - at >= CALM * a), None),
                min(self._in_flight.values(), default=None),
                self._blocked_until,
            )

    def lag(self) -> float:
        """Seconds that this process's watermark is behind; infinite while there is none."""
        watermark = self.seen().watermark()
        return inf if watermark is None else self.now() - watermark
