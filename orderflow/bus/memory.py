"""A broker inside one process: for unit tests, and for trying things out. Routes like the real ones.

Messages lie in one queue a service; what was received stays invisible until it is deleted or given back. There is no
visibility timer: `redeliver()` gives back what a crashed consumer held.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from orderflow.bus import BATCH, Broker, Delivery, Parcel, Queue, SendFailure
from orderflow.routing import SERVICES, Channel, heard_by


class MemoryQueue(Queue):
    """See `Queue`. `parked` holds what went to the dead-letter queue, with the reasons."""

    def __init__(self) -> None:
        self.waiting: deque[Delivery] = deque()
        self.in_hand: dict[str, Delivery] = {}
        self.parked: list[tuple[Delivery, str]] = []
        self._receipts = itertools.count(1)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, body: str) -> None:
        """Adds a message, as a broker would."""
        with self._changed:
            self.waiting.append(Delivery(body, receipt="", receive_count=0, broker_id=str(next(self._receipts))))
            self._changed.notify_all()

    def receive(self, limit: int, wait: int) -> list[Delivery]:
        deadline = time.monotonic() + wait
        with self._changed:
            while not self.waiting and not self._closed and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            batch: list[Delivery] = []
            while self.waiting and len(batch) < min(limit, BATCH):
                waiting = self.waiting.popleft()
                receipt = str(next(self._receipts))
                delivery = replace(waiting, receipt=receipt, receive_count=waiting.receive_count + 1)
                self.in_hand[receipt] = delivery
                batch.append(delivery)
            return batch

    def delete(self, deliveries: Sequence[Delivery]) -> None:
        with self._changed:
            for delivery in deliveries:
                self.in_hand.pop(delivery.receipt, None)

    def extend(self, deliveries: Sequence[Delivery], seconds: int) -> None:
        with self._changed:
            for delivery in deliveries:
                if seconds == 0 and delivery.receipt in self.in_hand:
                    del self.in_hand[delivery.receipt]
                    self.waiting.append(delivery)
            self._changed.notify_all()

    def park(self, delivery: Delivery, reason: str) -> None:
        with self._changed:
            if self.in_hand.pop(delivery.receipt, None):
                self.parked.append((delivery, reason))

    def redeliver(self) -> None:
        """What is in hand becomes visible again, as if its visibility timeout had passed."""
        with self._changed:
            self.waiting.extend(self.in_hand.values())
            self.in_hand.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Lets a waiting receive come back."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class MemoryBroker(Broker):
    """See `Broker`. `whole = False` plays a broker whose stack is missing."""

    def __init__(self) -> None:
        self.queues = {service: MemoryQueue() for service in SERVICES}
        self.whole = True

    def send(self, channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        for parcel in batch:
            for service in self._receivers(channel, target, parcel):
                self.queues[service].put(parcel.body)
        return ()

    def _receivers(self, channel: Channel, target: str, parcel: Parcel) -> Sequence[str]:
        if channel is Channel.QUEUE:
            return (target,)
        name, workflow = parcel.envelope.name, parcel.envelope.workflow
        return [service for service in SERVICES if name in heard_by(service).get(workflow, ())]

    def queue(self, service: str) -> MemoryQueue:
        return self.queues[service]

    def ready(self) -> bool:
        return self.whole

    def close(self) -> None:
        for queue in self.queues.values():
            queue.close()
