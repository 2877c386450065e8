"""Receives messages from one queue, ten at a time, and settles each by its verdict.

It uses long polls, keeps messages in flight invisible by a heartbeat, and receives nothing while the database is
unavailable, so that an outage doesn't raise the receive counts of messages.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Final
from uuid import NAMESPACE_OID, UUID, uuid5

import structlog

from orderflow.broker import BATCH, Delivery, Queue
from orderflow.envelope import Envelope, decode
from orderflow.errors import BrokerUnavailable
from orderflow.messaging import tracing
from orderflow.messaging.acknowledger import Acknowledger
from orderflow.messaging.guard import DeadLettered, Done, Retry, Verdict
from orderflow.messaging.processor import Processor
from orderflow.messaging.watermark import Watermark

log = structlog.get_logger(__name__)

_PAUSE: Final = 0.5
"""Seconds between checks of an unavailable broker or database."""

_LONGEST_DELAY: Final = 900
"""Maximum seconds until a message is retried. The delay is about as long as the message has waited so far, so that an
outage of a day doesn't use up its queue's `maxReceiveCount` (deploy/stack/render.py)."""

_SOON: Final = 1.2
"""The factor by which each wait for a locked row may be longer than the one before."""


class Consumer:
    """One or more threads run `run`, each with batches of its own."""

    def __init__(
        self,
        queue: Queue,
        processor: Processor,
        *,
        database_alive: Callable[[], bool],
        long_poll: int,
        visibility: int,
        heartbeat: float,
        give_back: Callable[[Mapping[str, float]], None] | None = None,
    ) -> None:
        """`give_back` records, for services that own deadlines, the orders with a hidden message, and for how many
        seconds it stays hidden."""
        self.watermark = Watermark(long_poll=max(1, long_poll), visibility=visibility)
        self._give_back = give_back
        self._queue = queue
        self.acknowledger = Acknowledger(queue, self._finished)
        self._processor = processor
        self._database_alive = database_alive
        self._long_poll = long_poll
        self._visibility = visibility
        self._heartbeat = heartbeat
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._in_flight: dict[str, tuple[Delivery, float]] = {}
        self._database_doubtful = False
        self._broker_away = False
        self.beat = time.monotonic()

    def run(self) -> None:
        """Works until `stop`."""
        while not self._stopping.is_set():
            try:
                # A short poll until the first answer shows soon what the queue holds, even if that is nothing.
                self.step(self._long_poll if self.watermark.hearing else min(1, self._long_poll))
            except BrokerUnavailable as error:
                if not self._broker_away:
                    log.warning("broker unavailable; no messages are received until it is back", error=str(error))
                self._broker_away = True
                self._stopping.wait(_PAUSE)
            except Exception:
                # The thread must continue after any error: otherwise nobody would read the queue.
                log.exception(f"consumer failed; retrying in {_PAUSE:g} s")
                self._stopping.wait(_PAUSE)

    def stop(self) -> None:
        """Receives no more; the current batch is finished."""
        self._stopping.set()

    @property
    def busy(self) -> bool:
        """Whether any message is in flight."""
        return bool(self._in_flight)

    def step(self, wait: int) -> int:
        """Receives and handles one batch; returns its size. Raises BrokerUnavailable."""
        self.beat = time.monotonic()
        if self._database_doubtful and not self._database_alive():
            self._stopping.wait(_PAUSE)
            return 0
        self._database_doubtful = False
        began, received_from = self.watermark.now(), time.time_ns()
        try:
            deliveries = self._queue.receive(BATCH, wait)
        except BaseException as error:
            self.watermark.failed(took_nothing=isinstance(error, BrokerUnavailable) and error.done_nothing)
            raise
        self.watermark.received(deliveries, began, wait)
        if self._broker_away:
            log.info("broker available again")
            self._broker_away = False
        now = time.monotonic()
        with self._lock:
            self._in_flight |= {d.receipt: (d, now) for d in deliveries}
        if deliveries:
            tracing.received(len(deliveries), received_from)
            try:
                self._handle(deliveries)
            except BaseException:
                # No longer in flight here: without the heartbeat they become visible, and are retried.
                self.watermark.block(self._visibility)
                self._finished(deliveries)
                raise
        return len(deliveries)

    def _handle(self, deliveries: Sequence[Delivery]) -> None:
        verdicts: list[tuple[Delivery, Verdict]] = []
        first: dict[str, tuple[Envelope, Delivery]] = {}  # the delivery to handle, by message
        repeats: list[tuple[Delivery, str]] = []
        for delivery in deliveries:
            try:
                envelope = decode(delivery.body)
            except Exception as error:  # noqa: BLE001 - a bug in the decoder, say: it counts for this message
                about = {"broker_id": delivery.broker_id}
                verdicts.append((delivery, self._processor.guard.verdict(error, _failure_id(delivery), about)))
                continue
            twin = first.get(envelope.id)
            if twin is None or envelope.resend > twin[0].resend:
                # Under Step Functions, only the token of the latest resend is still valid.
                first[envelope.id] = (envelope, delivery)
                repeats += [(twin[1], envelope.id)] if twin else []
            else:
                repeats.append((delivery, envelope.id))
        fates: dict[str, Verdict | Future[Verdict]] = dict(
            zip(first, self._processor.process([e for e, _ in first.values()]), strict=True)
        )
        pairs = [(first[i][1], fate) for i, fate in fates.items()] + [(d, fates[i]) for d, i in repeats]
        for delivery, fate in pairs:
            if isinstance(fate, Future):
                fate.add_done_callback(lambda done, d=delivery: self._settle([(d, done.result())]))  # type: ignore[misc]
            else:
                verdicts.append((delivery, fate))
        self._settle(verdicts)

    def _settle(self, verdicts: Sequence[tuple[Delivery, Verdict]]) -> None:
        self.acknowledger.acknowledge([d for d, verdict in verdicts if isinstance(verdict, Done)])
        others = [(d, verdict) for d, verdict in verdicts if not isinstance(verdict, Done)]
        try:
            delays = self._delays([(d, verdict) for d, verdict in others if isinstance(verdict, Retry)])
            for delivery, verdict in others:
                try:
                    self._retry_or_dead_letter(delivery, verdict, delays.get(delivery.receipt, 0))
                except BrokerUnavailable:
                    raise
                except Exception as error:
                    # It is redelivered after its visibility timeout.
                    self.watermark.block(self._visibility)
                    log.warning("could not retry or dead-letter", exc_info=error, broker_id=delivery.broker_id)
        except BrokerUnavailable as error:
            # They are redelivered after their visibility timeout.
            log.warning("could not retry or dead-letter", error=str(error), messages=len(others))
            self.watermark.block(self._visibility)
        finally:
            self._finished([delivery for delivery, _ in others])

    def _retry_or_dead_letter(self, delivery: Delivery, verdict: Verdict, delay: int) -> None:
        if isinstance(verdict, DeadLettered):
            log.error("message dead-lettered", reason=verdict.reason, broker_id=delivery.broker_id, **_about(delivery))
            self._queue.park(delivery, verdict.reason)
        elif isinstance(verdict, Retry):
            self._database_doubtful |= not verdict.soon
            log.info("message waits", reason=verdict.reason, receive_count=delivery.receive_count, **_about(delivery))
            self._queue.extend([delivery], delay)

    def _delays(self, waiting: Sequence[tuple[Delivery, Retry]]) -> dict[str, int]:
        """Seconds until each message is visible again, by receipt. At most the visibility timeout if its order could
        not be recorded: then the deadlines of all orders wait for it."""
        delays = {d.receipt: _delay(d.receive_count, soon=verdict.soon) for d, verdict in waiting}
        if not delays or self._give_back is None:
            return delays
        hidden: dict[str, float] = {}
        try:
            for delivery, _ in waiting:
                order_id = decode(delivery.body).subject
                hidden[order_id] = max(hidden.get(order_id, 0.0), delays[delivery.receipt])
            self._give_back(hidden)
            return delays
        except Exception as error:  # noqa: BLE001 - an unavailable database, or a message whose order can't be read
            log.info("could not record the orders of retried messages", error=repr(error), messages=len(waiting))
            self.watermark.block(self._visibility)
            return {receipt: min(delay, self._visibility) for receipt, delay in delays.items()}

    def _finished(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            for delivery in deliveries:
                self._in_flight.pop(delivery.receipt, None)
        self.watermark.settled(deliveries)

    def extend_visibility(self) -> None:
        """The heartbeat: keeps messages invisible that have been in flight for a while. Call it about every second."""
        now = time.monotonic()
        with self._lock:
            due = [d for d, since in self._in_flight.values() if now - since >= self._heartbeat]
            self._in_flight |= {d.receipt: (d, now) for d in due}
        if due:
            try:
                self._queue.extend(due, self._visibility)
            except BrokerUnavailable as error:
                log.warning("heartbeat failed", error=str(error), messages=len(due))


def _about(delivery: Delivery) -> dict[str, str]:
    try:
        return decode(delivery.body).about
    except Exception:  # noqa: BLE001 - a message that can't be decoded is logged nevertheless
        return {}


def _failure_id(delivery: Delivery) -> str:
    """The id for counting failures if the message's own can't be read: the broker's, which is a UUID in SQS."""
    try:
        return str(UUID(delivery.broker_id))
    except ValueError:
        return str(uuid5(NAMESPACE_OID, delivery.broker_id))


def _delay(receive_count: int, *, soon: bool = False) -> int:
    """Seconds until a message is retried. Full jitter:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    `soon`: two seconds at first, later a third of the time waited so far; the allowed receives last most of a day."""
    longest = max(2, _SOON**receive_count) if soon else 2**receive_count
    return random.randint(0, int(min(_LONGEST_DELAY, longest)))
