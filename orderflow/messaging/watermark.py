"""How far one process has seen its queue: the watermark, in event time.

Everything that was sent to the queue before the watermark has been handled. A count of what a receive gave says nothing
of that: SQS gives fewer than asked for whenever it likes, also from a long queue.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html

Two things raise it (docs/adr/0025-a-watermark-of-event-time.md): an empty *long* poll, which asks all servers, raises
it to when that poll began; and under a load that never lets a poll come back empty, messages that were all young, for
ten times as long as the oldest of them was. What is in flight holds it back.
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
"""Seconds after an empty poll began from which it counts: what others had been given until then has reached them."""

AGES: Final = tuple(2.0**n for n in range(1, 11))
"""Seconds that messages may have waited in the queue, at most, under a load that is called calm."""

CALM: Final = 10
"""Times such an age that a queue must have been calm. If messages are received in any order, the chance that one is
left out for so long is below e^-10, and e^-20 where they wait half as long as the slowest."""

_PATIENCE: Final = 5.0
"""Seconds beyond the long poll within which a broker that answers has answered a receive."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one process knows of its queue. Moments are seconds by its monotonic clock; None: it knows nothing yet."""

    empty_from: float | None
    """When the latest empty long poll began that others have had the time to object to."""
    received_at: float | None
    """When the latest receive began that gave messages."""
    calm: float | None
    """Until `received_at`, for CALM times so long, no message had waited for longer than this."""
    oldest: float | None
    """When the oldest message was sent that is in flight here."""
    blocked_until: float
    """By then everything is visible again that may be invisible without being known here; -inf if nothing is."""

    def watermark(self) -> float | None:
        """As far as this process alone can tell."""
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
    """Notes each receive of one process and what became of it. Safe to use from several threads."""

    def __init__(self, *, long_poll: float, visibility: float, now: Callable[[], float] = time.monotonic) -> None:
        self._long_poll = long_poll
        self._visibility = visibility
        self.now = now
        self._lock = threading.Lock()
        self._empty: deque[float] = deque()
        self._in_flight: dict[str, float] = {}
        """When each was sent, by receipt."""
        self._older_at = [self.now()] * len(AGES)
        """When a message was last received that had waited for longer than each of AGES."""
        self._received_at: float | None = None
        self._blocked_until = -inf
        self._heard_at: float | None = None

    @property
    def hearing(self) -> bool:
        """Whether the queue answers: deadlines don't count while its owner can't hear."""
        heard = self._heard_at
        return heard is not None and self.now() - heard <= self._long_poll + _PATIENCE

    def received(self, deliveries: Sequence[Delivery], began: float, wait: float) -> None:
        """A receive that began then came back; with nothing, after up to `wait` seconds."""
        with self._lock:
            self._heard_at = now = self.now()
            self._in_flight |= {d.receipt: now - d.age for d in deliveries}
            if deliveries:
                self._received_at = began
                # The age of one that had been given out before says nothing of what it waited for in the queue.
                slowest = max((d.age for d in deliveries if d.receive_count == 1), default=0.0)
                self._older_at = [now if slowest > age else at for age, at in zip(AGES, self._older_at, strict=True)]
            elif wait > 0:
                self._empty.append(began)

    def failed(self, *, took_nothing: bool = False) -> None:
        """A receive failed. Unless it surely took nothing, its answer may be lost, with messages that stay invisible as
        if they had been taken."""
        self._heard_at = None
        if not took_nothing:
            self.block(self._visibility)

    def block(self, seconds: float) -> None:
        """Something of the queue may stay invisible for so long, and nobody has it."""
        with self._lock:
            self._blocked_until = max(self._blocked_until, self.now() + seconds)

    def settled(self, deliveries: Sequence[Delivery]) -> None:
        """These are not in flight any more."""
        with self._lock:
            for delivery in deliveries:
                self._in_flight.pop(delivery.receipt, None)

    def seen(self) -> Seen:
        """All of this, now."""
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
        """Seconds that this process's watermark is behind; infinite while it has none."""
        watermark = self.seen().watermark()
        return inf if watermark is None else self.now() - watermark
