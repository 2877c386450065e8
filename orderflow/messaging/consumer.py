"""Takes messages off one queue, ten at a time, and acknowledges each by its verdict.

Long polls; keeps what is in hand invisible by a heartbeat; receives nothing while the database is away, so that an
outage costs no message its receive count.
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
"""Seconds between looks for a broker or database that is away."""

_LONGEST_DELAY: Final = 900
"""Seconds that a message waits at most before it is tried again: about as long as it has waited, so that an
outage of a day does not use up the `maxReceiveCount` of its queue (deploy/stack/render.py)."""

_SOON: Final = 1.2
"""How much longer each wait for a locked row may be than the one before."""


class Consumer:
    """One or more threads that run `run`, each with batches of its own."""

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
        """`give_back` notes orders of which a message stays hidden for so many seconds, where deadlines go by that."""
        self.watermark = Watermark(long_poll=max(1, long_poll), visibility=visibility)
        self._give_back = give_back
        self._queue = queue
        self.acknowledger = Acknowledger(queue, self._out_of_hand)
        self._processor = processor
        self._database_alive = database_alive
        self._long_poll = long_poll
        self._visibility = visibility
        self._heartbeat = heartbeat
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._in_hand: dict[str, tuple[Delivery, float]] = {}
        self._database_doubtful = False
        self._broker_away = False
        self.beat = time.monotonic()

    def run(self) -> None:
        """Works until `stop`."""
        while not self._stopping.is_set():
            try:
                # What is there is known soon, also where nothing is.
                self.step(self._long_poll if self.watermark.hearing else min(1, self._long_poll))
            except BrokerUnavailable as error:
                if not self._broker_away:
                    log.warning("broker away; no messages until it is back", error=str(error))
                self._broker_away = True
                self._stopping.wait(_PAUSE)
            except Exception:
                # Whatever it is, a consumer that ended would leave its queue to nobody.
                log.exception("consumer stumbled; it goes on")
                self._stopping.wait(_PAUSE)

    def stop(self) -> None:
        """No further receives; the batch in hand is finished."""
        self._stopping.set()

    @property
    def busy(self) -> bool:
        """Whether any message is in hand."""
        return bool(self._in_hand)

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
            log.info("broker is back")
            self._broker_away = False
        now = time.monotonic()
        with self._lock:
            self._in_hand |= {d.receipt: (d, now) for d in deliveries}
        if deliveries:
            tracing.received(len(deliveries), received_from)
            try:
                self._handle(deliveries)
            except BaseException:
                # Out of hand, so that the heartbeat lets them become visible to another try.
                self.watermark.block(self._visibility)
                self._out_of_hand(deliveries)
                raise
        return len(deliveries)

    def _handle(self, deliveries: Sequence[Delivery]) -> None:
        verdicts: list[tuple[Delivery, Verdict]] = []
        first: dict[str, tuple[Envelope, Delivery]] = {}  # of each message, the one to handle
        repeats: list[tuple[Delivery, str]] = []
        for delivery in deliveries:
            try:
                envelope = decode(delivery.body)
            except Exception as error:  # noqa: BLE001 - a bug in the decoder, say: it is this message's failure
                about = {"broker_id": delivery.broker_id}
                verdicts.append((delivery, self._processor.guard.verdict(error, _failure_id(delivery), about)))
                continue
            twin = first.get(envelope.id)
            if twin is None or envelope.resend > twin[0].resend:
                # The later one of a step of Step Functions has the token that still counts.
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
                    self._put_off(delivery, verdict, delays.get(delivery.receipt, 0))
                except BrokerUnavailable:
                    raise
                except Exception as error:
                    # It comes again when its visibility runs out.
                    self.watermark.block(self._visibility)
                    log.warning("could not give back or park", exc_info=error, broker_id=delivery.broker_id)
        except BrokerUnavailable as error:
            # They come again when their visibility runs out, and are known then.
            log.warning("could not give back or park", error=str(error), messages=len(others))
            self.watermark.block(self._visibility)
        finally:
            self._out_of_hand([delivery for delivery, _ in others])

    def _put_off(self, delivery: Delivery, verdict: Verdict, delay: int) -> None:
        if isinstance(verdict, DeadLettered):
            log.error("message parked", reason=verdict.reason, broker_id=delivery.broker_id, **_about(delivery))
            self._queue.park(delivery, verdict.reason)
        elif isinstance(verdict, Retry):
            self._database_doubtful |= not verdict.soon
            log.info("message waits", reason=verdict.reason, receive_count=delivery.receive_count, **_about(delivery))
            self._queue.extend([delivery], delay)

    def _delays(self, waiting: Sequence[tuple[Delivery, Retry]]) -> dict[str, int]:
        """Seconds until each is visible again, by receipt. No longer than the visibility timeout where its order could
        not be noted: then the deadlines of all orders wait for it."""
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
        except Exception as error:  # noqa: BLE001 - the database is unavailable, or it has no order that can be read
            log.info("could not note what is given back", error=repr(error), messages=len(waiting))
            self.watermark.block(self._visibility)
            return {receipt: min(delay, self._visibility) for receipt, delay in delays.items()}

    def _out_of_hand(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            for delivery in deliveries:
                self._in_hand.pop(delivery.receipt, None)
        self.watermark.settled(deliveries)

    def keep_in_hand(self) -> None:
        """The heartbeat: keeps invisible what has been in hand for a while. Call it about every second."""
        now = time.monotonic()
        with self._lock:
            due = [d for d, since in self._in_hand.values() if now - since >= self._heartbeat]
            self._in_hand |= {d.receipt: (d, now) for d in due}
        if due:
            try:
                self._queue.extend(due, self._visibility)
            except BrokerUnavailable as error:
                log.warning("heartbeat failed", error=str(error), messages=len(due))


def _about(delivery: Delivery) -> dict[str, str]:
    try:
        return decode(delivery.body).about
    except Exception:  # noqa: BLE001 - one that can't be decoded is logged all the same
        return {}


def _failure_id(delivery: Delivery) -> str:
    """What failures are counted under while nobody can read the message's own id: the broker's, a UUID in SQS."""
    try:
        return str(UUID(delivery.broker_id))
    except ValueError:
        return str(uuid5(NAMESPACE_OID, delivery.broker_id))


def _delay(receive_count: int, *, soon: bool = False) -> int:
    """Seconds until a message is tried again. Full jitter:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    `soon`: two at first, and a third of what it has waited so far; the same number of receives lasts most of a day."""
    longest = max(2, _SOON**receive_count) if soon else 2**receive_count
    return random.randint(0, int(min(_LONGEST_DELAY, longest)))
