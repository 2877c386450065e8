"""Acknowledges handled messages: ten per call, or fewer after a short wait.

The inbox knows a message that was handled but not yet deleted: if the process dies, the message is redelivered and has
no second effect. So acknowledging is not urgent, and batching it saves a third of all calls to SQS.
AWS's own clients do the same: https://docs.aws.amazon.com/sdk-for-java/latest/developer-guide/sqs-auto-batch.html
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from orderflow import failpoints
from orderflow.broker import BATCH, Delivery, Queue
from orderflow.errors import BrokerUnavailable

log = structlog.get_logger(__name__)

_MOMENT: Final = 0.2
"""Maximum seconds that an acknowledgement waits for others to share its call."""


class Acknowledger:
    """Deletes messages from one queue, in a thread that runs `run`; without such a thread, at once.

    `settled` is called with the deliveries that are finished, whether they could be deleted or not.
    """

    def __init__(self, queue: Queue, settled: Callable[[Sequence[Delivery]], None]) -> None:
        self._queue = queue
        self._settled = settled
        self._waiting: list[Delivery] = []
        self._changed = threading.Condition()
        self._running = False
        self._stopping = False

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Schedules messages to be deleted."""
        if not deliveries:
            return
        with self._changed:
            self._waiting += deliveries
            self._changed.notify()
            running = self._running
        if not running:
            self._delete(self._take())

    def run(self) -> None:
        """Works until `stop`, and then finishes what is left."""
        with self._changed:
            self._running = True
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                self._changed.wait_for(lambda: len(self._waiting) >= BATCH or self._stopping, _MOMENT)
                if not self._waiting:
                    self._running = False
                    return
                batch = self._take()
            self._delete(batch)

    def stop(self) -> None:
        """Lets `run` delete the remaining messages and return."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _take(self) -> list[Delivery]:
        with self._changed:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            return batch

    def _delete(self, batch: Sequence[Delivery]) -> None:
        try:
            failpoints.reached("delete.before")
            self._queue.delete(batch)
            failpoints.reached("delete.after")
        except BrokerUnavailable as error:
            # They are redelivered after their visibility timeout, and the inbox knows them then.
            log.warning("could not acknowledge", error=str(error), messages=len(batch))
        except Exception:
            # As above. The thread must continue: without it, nothing would be acknowledged any more.
            log.exception("acknowledging failed; the messages will be redelivered", messages=len(batch))
        finally:
            self._settled(batch)
