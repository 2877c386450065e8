"""A broker inside one process, for tests and for trying things out. It routes as the real ones do.

Each service has one queue. A received message stays invisible until it is deleted or returned. There is no visibility
timer: `redeliver()` returns the messages of a crashed consumer.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from orderflow import clock
from orderflow.broker import BATCH, Broker, DeadLetter, DeadLetterQueue, Delivery, Parcel, Queue, SendFailure
from orderflow.routing import SERVICES, Channel, heard_by


class MemoryQueue(Queue):
    """See `Queue`. `parked` holds the messages in the dead-letter queue, with the reasons."""

    def __init__(self) -> None:
        self.waiting: deque[Delivery] = deque()
        self.in_flight: dict[str, Delivery] = {}
        self.parked: list[tuple[Delivery, str]] = []
        self.parked_at: dict[str, datetime] = {}
        """When each was dead-lettered, by receipt."""
        self.sent_at: dict[str, float] = {}
        """When each message was sent, in monotonic seconds, by broker id."""
        self._receipts = itertools.count(1)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, body: str) -> None:
        """Adds a message to the queue, as a broker would."""
        with self._changed:
            broker_id = str(next(self._receipts))
            self.sent_at[broker_id] = time.monotonic()
            self.waiting.append(Delivery(body, receipt="", receive_count=0, broker_id=broker_id))
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
                age = time.monotonic() - self.sent_at.get(waiting.broker_id, time.monotonic())
                count = waiting.receive_count + 1
                delivery = replace(waiting, receipt=receipt, receive_count=count, age=age)
                self.in_flight[receipt] = delivery
                batch.append(delivery)
            return batch

    def delete(self, deliveries: Sequence[Delivery]) -> None:
        with self._changed:
            for delivery in deliveries:
                if self.in_flight.pop(delivery.receipt, None):
                    self.sent_at.pop(delivery.broker_id, None)

    def extend(self, deliveries: Sequence[Delivery], seconds: int) -> None:
        with self._changed:
            for delivery in deliveries:
                if seconds == 0 and delivery.receipt in self.in_flight:
                    del self.in_flight[delivery.receipt]
                    self.waiting.append(delivery)
            self._changed.notify_all()

    def park(self, delivery: Delivery, reason: str) -> None:
        with self._changed:
            if self.in_flight.pop(delivery.receipt, None):
                self.parked.append((delivery, reason))
                self.parked_at[delivery.receipt] = clock.utc_now()

    def redeliver(self) -> None:
        """Makes the messages in flight visible again, as if their visibility timeout had passed."""
        with self._changed:
            self.waiting.extend(self.in_flight.values())
            self.in_flight.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Lets a waiting receive return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class MemoryDeadLetters(DeadLetterQueue):
    """See `DeadLetterQueue`: the dead letters of one queue."""

    def __init__(self, service: str, queue: MemoryQueue) -> None:
        self.name = f"{service}-dlq"
        self._queue = queue
        self._held: set[str] = set()
        self._lock = threading.Lock()

    def depth(self) -> int:
        return len(self._queue.parked)

    def take(self, limit: int) -> list[DeadLetter]:
        with self._lock:
            free = [(d, reason) for d, reason in self._queue.parked if d.receipt not in self._held]
            taken = free[: min(limit, BATCH)]
            self._held |= {d.receipt for d, _ in taken}
        return [
            DeadLetter(
                self.name, d.receipt, d.body, reason, self._queue.parked_at[d.receipt], d.receive_count, d.receipt
            )
            for d, reason in taken
        ]

    def give_back(self, letters: Sequence[DeadLetter]) -> None:
        with self._lock:
            self._held -= {letter.receipt for letter in letters}

    def redrive(self, letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
        for letter in letters:
            self._queue.put(letter.body)
        self.discard(letters)
        return letters

    def discard(self, letters: Sequence[DeadLetter]) -> None:
        gone = {letter.receipt for letter in letters}
        with self._lock:
            self._queue.parked[:] = [(d, reason) for d, reason in self._queue.parked if d.receipt not in gone]
            self._held -= gone


class MemoryBroker(Broker):
    """See `Broker`. `whole = False` simulates a broker whose stack is missing."""

    def __init__(self) -> None:
        self.queues = {service: MemoryQueue() for service in SERVICES}
        self._dead_letters = {service: MemoryDeadLetters(service, queue) for service, queue in self.queues.items()}
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

    def dead_letters(self, service: str) -> Sequence[MemoryDeadLetters]:
        return [self._dead_letters[service]]

    def ready(self) -> bool:
        return self.whole

    def close(self) -> None:
        for queue in self.queues.values():
            queue.close()
