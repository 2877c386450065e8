"""What orderflow needs from a broker, as protocols. Each backend has a module of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from orderflow.envelope import Envelope
from orderflow.errors import OrderflowError
from orderflow.routing import Channel

BATCH: Final = 10
"""Maximum number of messages that SNS, SQS and EventBridge accept or return in one call."""

BATCH_BYTES: Final = 256 * 1024
"""Maximum bytes of one batch, attributes included."""


class BatchRefused(OrderflowError):
    """The broker refused a whole batch, perhaps because of one message (its size, say). Others may pass on their own.

    `final`: a message must be the cause, so one that is refused alone is never accepted. `code`: the error code."""

    def __init__(self, reason: str, code: str = "", *, final: bool = False) -> None:
        super().__init__(reason)
        self.code, self.final = code, final


@dataclass(frozen=True, slots=True)
class Parcel:
    """An encoded envelope, with what a broker needs to know about it."""

    envelope: Envelope
    body: str

    @property
    def size(self) -> int:
        """Its part of a batch's bytes: the body, and an estimate for its attributes."""
        return len(self.body) + 200


@dataclass(frozen=True, slots=True)
class SendFailure:
    """One entry of a batch that the broker didn't accept. `final`: it never will; `destination`: it accepts no other
    one either, for now (`orderflow.broker.aws.refusals`). `code`: the broker's; empty if there was no answer."""

    index: int
    reason: str
    final: bool
    code: str = ""
    destination: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it was received from a queue. `receipt` is valid until the visibility timeout. `age` is the number
    of seconds since it was sent, by the broker's clock: up to one second too high, never too low."""

    body: str
    receipt: str
    receive_count: int = 1
    broker_id: str = ""
    age: float = 0.0


class Queue(Protocol):
    """One service's queue. Every method raises BrokerUnavailable if the broker or the queue is unavailable, and
    BatchRefused if the broker refuses the call because of its content."""

    def receive(self, limit: int, wait: int) -> list[Delivery]:
        """Up to `limit` messages; waits up to `wait` seconds for the first one."""

    def delete(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledges messages: they are not delivered again."""

    def extend(self, deliveries: Sequence[Delivery], seconds: int) -> None:
        """Makes messages visible again in `seconds` from now (0: at once)."""

    def park(self, delivery: Delivery, reason: str) -> None:
        """Moves one message to the dead-letter queue, with the reason. At least once."""


HOLD: Final = 60
"""Seconds that a dead letter is hidden from others while it is read, unless it is returned before."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be handled. `id` is the broker's; `body` is as its queue should have received it.

    `reason`: why it was dead-lettered, or could not be delivered. `at`: when it was dead-lettered; if SQS itself moved
    it, or the broker refused it, when it was first staged or sent. `receives`: how often it had been received before,
    if known."""

    queue: str
    id: str
    body: str
    reason: str
    at: datetime
    receives: int | None
    receipt: str


class DeadLetterQueue(Protocol):
    """One dead-letter queue: of a service's queue, or of a channel that delivers to it. `name`: without the stack's.

    Every method raises BrokerUnavailable."""

    name: str

    def depth(self) -> int:
        """About how many messages it holds, those in flight included."""

    def take(self, limit: int) -> list[DeadLetter]:
        """Receives up to `limit` messages, ten at most; they are hidden from others for HOLD seconds."""

    def give_back(self, letters: Sequence[DeadLetter]) -> None:
        """Makes messages visible to others again."""

    def redrive(self, letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
        """Sends messages to their original queue and deletes them here; returns those that were sent. At least once: if
        it fails in between, they remain here as well, and the service's inbox recognises the duplicates."""

    def discard(self, letters: Sequence[DeadLetter]) -> None:
        """Deletes messages."""


class Broker(Protocol):
    """Everything that a process needs from its broker."""

    def send(self, channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        """Sends up to ten messages over one channel; `target` is the bus, or the service that owns the queue.

        Returns the entries that were not accepted. Raises BrokerUnavailable if the outcome of the whole batch is
        unknown or this destination accepts nothing now, and BatchRefused if the broker refused the batch, perhaps
        because of one message. Called by several threads at once, each with a destination of its own.
        """

    def queue(self, service: str) -> Queue:
        """The queue of a service."""

    def dead_letters(self, service: str) -> Sequence[DeadLetterQueue]:
        """All dead-letter queues of a service: that of its queue, and those of its subscription and its rule."""

    def ready(self) -> bool:
        """Whether the broker answers and its stack is complete. Until it is, nothing may be published: without a
        subscription or rule, SNS and EventBridge accept messages and silently drop them. The failure of one destination
        doesn't count."""

    def close(self) -> None:
        """Closes all connections; a receive that waits returns."""
