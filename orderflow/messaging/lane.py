"""The outgoing messages for one destination: a bulkhead with a thread and a circuit breaker of its own.

If one destination hangs, throttles or denies, messages for the others don't wait for it.
https://docs.aws.amazon.com/wellarchitected/latest/reliability-pillar/rel_fault_isolation_use_bulkhead.html
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Final

import structlog

from orderflow import failpoints, metrics
from orderflow.broker import BATCH, BATCH_BYTES, Broker, SendFailure
from orderflow.errors import DatabaseUnavailable
from orderflow.messaging import tracing
from orderflow.messaging.backlog import Entry
from orderflow.messaging.circuit import Circuit, Outage, back_off
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.pace import Pace
from orderflow.messaging.sending import send
from orderflow.routing import Channel

log = structlog.get_logger(__name__)

CAPACITY: Final = 400
"""About how many messages wait in memory. Further ones wait in the database."""

PULL: Final = 10 * BATCH
"""Messages claimed at once, as soon as no more than this many are left: so the next are claimed while these are
sent."""

_NOT_READY: Final = 0.5
"""Seconds between checks of a broker that is unavailable as a whole."""

_LONGEST_RETRY: Final = 60.0
"""Maximum seconds until a message is retried that was not accepted while others were."""

failures: Final = metrics.Counts(
    "send_failures", "Messages that a destination didn't take, by AWS's code", "channel", "target", "code"
)


class Lane:
    """`run` sends in a thread; `step` sends one batch, for tests. Any thread may call `pull`."""

    def __init__(
        self, channel: Channel, target: str, outbox: Outbox, broker: Broker, wants_pull: Callable[[], None]
    ) -> None:
        self.channel, self.target = channel, target
        self.circuit = Circuit()
        self.pace = Pace()
        self._outbox = outbox
        self._broker = broker
        self._wants_pull = wants_pull
        self._waiting: deque[tuple[float, Entry]] = deque()
        """The latest time to send a message (monotonic seconds), and the message."""
        self._behind = False
        """Whether more messages may wait in the database. While this is so, newly staged ones wait there too."""
        self._retries: list[float] = []
        """A heap of the retry times of messages in the database."""
        self._changed = threading.Condition()
        self._wakes_at = inf
        self._outage = Outage(channel.value, target)
        self._stopping = False

    @property
    def waiting(self) -> int:
        """How many messages wait in memory."""
        return len(self._waiting)

    @property
    def takes(self) -> bool:
        """Whether it can now send messages that are about to be staged."""
        return self.circuit.closed and not self._behind and not self._stopping and len(self._waiting) < CAPACITY

    def hand_over(self, entries: Sequence[Entry], now: float, *, alone: bool) -> None:
        """Takes staged messages. Unless a message is `alone`, it waits a moment for others. Never blocks."""
        due = now if alone else now + self.pace.linger
        with self._changed:
            self._waiting.extend((due, entry) for entry in entries if entry.leased)
            behind = not all(entry.leased for entry in entries)
            self._behind |= behind
            if len(self._waiting) >= BATCH or due < self._wakes_at:
                self._changed.notify()
        if behind:
            self._wants_pull()

    def fall_behind(self) -> None:
        """Notes that messages for this destination wait in the database."""
        self._behind = True

    def pull(self, now: float) -> int:
        """Claims messages from the database, if there is room and they can be sent. Returns their number.

        Raises DatabaseUnavailable."""
        with self._changed:
            while self._retries and self._retries[0] <= now:
                heappop(self._retries)
                self._behind = True
            limit = self._room(now) if self._behind else 0
            if not limit:
                return 0
            self._behind = False  # before the claim: messages staged meanwhile set it again
        try:
            claimed = self._outbox.backlog.claim(self.channel, self.target, limit)
        except BaseException:
            self._behind = True
            raise
        self._behind |= claimed.full
        with self._changed:
            self._waiting.extend((0.0, entry) for entry in claimed.entries)
            self._changed.notify()
        return len(claimed.entries)

    def pull_in(self, now: float) -> float:
        """Seconds until `pull` may find messages, unless `wants_pull` is called before."""
        with self._changed:
            if self._stopping:
                return inf
            retry = self._retries[0] if self._retries else inf
            if not self._behind:
                return retry - now
            if self._room(inf):
                return min(retry, self.circuit.retry_at or now) - now
            return inf

    def _room(self, now: float) -> int:
        if self._stopping:
            return 0
        if self.circuit.retry_at is not None:  # a few messages for a probe, at the retry time
            return BATCH if not self._waiting and self.circuit.retry_at <= now else 0
        return PULL if len(self._waiting) <= PULL else 0

    def run(self) -> None:
        """Sends until `stop`, and then the remaining messages for as long as the destination accepts them."""
        while True:
            with self._changed:
                while not self._stopping and (pause := self._pause()) > 0:
                    self._wakes_at = time.monotonic() + pause
                    self._changed.wait(None if pause == inf else pause)
                self._wakes_at = -inf
                if self._stopping and not (self._waiting and self.circuit.closed):
                    break
            try:
                self.step()
            except Exception as error:
                # The thread must continue after any error: otherwise nobody would send to this destination. The
                # messages that it was sending are retried when their lease has expired.
                log.exception("sending failed; retrying", channel=self.channel.value, target=self.target)
                self._unavailable(type(error).__name__, "an error in this process")
        self._release()

    def stop(self) -> None:
        """Lets `run` send the remaining messages and return."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _pause(self) -> float:
        """Seconds until the next send: a full batch is due now, another when its oldest message is due."""
        if not self._waiting:
            return inf
        if self.circuit.retry_at is not None:
            return self.circuit.retry_at - time.monotonic()
        return 0.0 if len(self._waiting) >= BATCH else self._waiting[0][0] - time.monotonic()

    def step(self) -> bool:
        """Sends one batch, or one message if the destination accepted nothing the last time. Returns whether any
        message left the lane."""
        self._drop_expired()
        if not self._waiting:
            return False
        if not self._broker.ready():
            self.circuit = self.circuit.held(time.monotonic(), _NOT_READY)
            self._outage.begin("NotReady", "the broker does not answer, or its stack is not complete (yet)")
            return False
        probing = not self.circuit.closed
        batch = self._next_batch(1 if probing else BATCH)
        failpoints.reached("publish.before")
        began = time.time_ns()
        self.pace.begin(time.monotonic())
        failed = send(self._broker, self.channel, self.target, batch)
        self.pace.end(time.monotonic())
        failpoints.reached("publish.after")
        self._settle(batch, failed, began, probing=probing)
        return len(failed) < len(batch) or any(failure.final for failure in failed)

    def _next_batch(self, limit: int) -> list[Entry]:
        """Up to `limit` messages in the order they were staged, within the size limit of a call."""
        batch: list[Entry] = []
        size = 0
        with self._changed:
            while self._waiting and len(batch) < limit:
                entry = self._waiting[0][1]
                if batch and size + entry.parcel.size > BATCH_BYTES:
                    break
                self._waiting.popleft()
                batch.append(entry)
                size += entry.parcel.size
            starved = self._behind and len(self._waiting) <= PULL
        if starved:
            self._wants_pull()
        return batch

    def _settle(self, batch: Sequence[Entry], failed: Sequence[SendFailure], began: int, *, probing: bool) -> None:
        for failure in failed:
            failures[self.channel.value, self.target, failure.code or "no answer"] += 1
        # An unavailable destination says nothing about the messages, so they keep their place. But a probe that got an
        # error code makes way for another message, in case it was the cause after all.
        if len(failed) == len(batch) and all(f.destination for f in failed) and not (probing and failed[0].code):
            self._put_back(batch)
            self._unavailable(failed[0].code, failed[0].reason)
            return
        indices = {failure.index for failure in failed}
        tracing.published(self.channel, self.target, [e.parcel.envelope for e in batch], indices, began)
        self._outbox.sent([entry for i, entry in enumerate(batch) if i not in indices])
        refused = [failure for failure in failed if failure.final]
        self._park([(batch[failure.index], failure.reason) for failure in refused])
        later = [failure for failure in failed if not failure.final]
        self._retry([batch[failure.index] for failure in later])
        for failure in later:
            if not failure.destination:
                about = batch[failure.index].parcel.envelope.about
                log.warning("message not accepted; it will be retried", reason=failure.reason, **about)
        if len(later) < len(batch):
            self._available()
        elif len(batch) > 1 or probing or later[0].destination:
            self._unavailable(later[0].code, later[0].reason)

    def _put_back(self, batch: Sequence[Entry]) -> None:
        with self._changed:
            self._waiting.extendleft((0.0, entry) for entry in reversed(batch))

    def _retry(self, entries: Sequence[Entry]) -> None:
        """Puts messages back into the database, each with its own retry time: later, the more often it has failed."""
        if not entries:
            return
        waits = [back_off(entry.attempts + 1, _LONGEST_RETRY) for entry in entries]
        try:
            self._outbox.backlog.postpone(entries, waits)
        except DatabaseUnavailable as error:
            log.warning("messages are retried when their lease expires", error=str(error), messages=len(entries))
            return
        now = time.monotonic()
        with self._changed:
            for wait in waits:
                heappush(self._retries, now + wait)
        self._wants_pull()

    def _park(self, refused: Sequence[tuple[Entry, str]]) -> None:
        for entry, reason in refused:
            known = {**entry.parcel.envelope.about, "reason": reason}
            log.error("message refused permanently; it stays in the outbox as a dead letter", **known)
            try:
                with self._outbox.transaction() as unit:
                    self._outbox.park(unit, entry, reason)
            except DatabaseUnavailable as error:
                log.warning("could not keep a refused message as a dead letter; retrying", error=str(error), **known)

    def _unavailable(self, code: str, reason: str) -> None:
        self.circuit = self.circuit.failed(time.monotonic())
        self._outage.begin(code or "no answer", reason)
        self._wants_pull()

    def _available(self) -> None:
        if self.circuit.closed:
            return
        self.circuit = self.circuit.succeeded()
        self._outage.end()
        self._wants_pull()

    def _drop_expired(self) -> None:
        # Any process may claim these soon: to send them here as well would only duplicate them.
        now = time.monotonic()
        with self._changed:
            before = len(self._waiting)
            while self._waiting and self._waiting[0][1].lease_ends < now:
                self._waiting.popleft()
            if len(self._waiting) == before:
                return
            self._behind = True
            heappush(self._retries, now + self._outbox.backlog.margin)
        self._wants_pull()

    def _release(self) -> None:
        now = time.monotonic()
        left = [entry for _, entry in self._waiting if entry.lease_ends > now]
        try:
            self._outbox.backlog.release(left)
        except DatabaseUnavailable as error:
            log.info("messages are sent when their lease expires", error=str(error), messages=len(left))
