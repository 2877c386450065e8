"""What orderflow asks of a broker, as protocols. Each backend lives in a module of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from orderflow.envelope import Envelope
from orderflow.errors import OrderflowError
from orderflow.routing import Channel

BATCH: Final = 10
"""The most messages that SNS, SQS and EventBridge take or give in one call."""

BATCH_BYTES: Final = 256 * 1024
"""The most bytes of one batch, attributes included."""


class BatchRefused(OrderflowError):
    """The broker refused a whole batch for what may be in it (its size, say); its entries may still pass one by one.

    `final`: it can't be anything else, so one that is refused alone will never be taken. `code`: the error code."""

    def __init__(self, reason: str, code: str = "", *, final: bool = False) -> None:
        super().__init__(reason)
        self.code, self.final = code, final


@dataclass(frozen=True, slots=True)
class Parcel:
    """An encoded envelope with what a broker needs to know of it."""

    envelope: Envelope
    body: str

    @property
    def size(self) -> int:
        """Bytes it takes of a batch: the body and about what its attributes take."""
        return len(self.body) + 200


@dataclass(frozen=True, slots=True)
class SendFailure:
    """One entry of a batch that the broker didn't take. `final`: it never will; `destination`: it takes no other one
    either, for now (`orderflow.broker.aws.refusals`). `code`: the broker's; empty if there was no answer."""

    index: int
    reason: str
    final: bool
    code: str = ""
    destination: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as a queue handed it out. `receipt` is good until the visibility timeout; `age` are the seconds since
    it was sent, by the broker's clock: up to one too many, none too few."""

    body: str
    receipt: str
    receive_count: int = 1
    broker_id: str = ""
    age: float = 0.0


class Queue(Protocol):
    """One service's queue. Every method raises BrokerUnavailable if the broker or the queue is away, and BatchRefused
    if it refuses the call for what is in it."""

    def receive(self, limit: int, wait: int) -> list[Delivery]:
        """Up to `limit` messages; waits up to `wait` seconds for the first one."""

    def delete(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledges: they are not delivered again."""

    def extend(self, deliveries: Sequence[Delivery], seconds: int) -> None:
        """Makes them visible again in `seconds` from now (0: at once)."""

    def park(self, delivery: Delivery, reason: str) -> None:
        """Moves one message to the dead-letter queue, with the reason. At least once."""


HOLD: Final = 60
"""Seconds that a dead letter stays out of others' sight while it is looked at, unless it is given back before."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that nobody handled. `id` is the broker's; `body` as its queue should have got it.

    `reason` is what parked it, or why it could not be delivered; `at` when it was put there (where SQS itself moved it,
    or the broker refused it: when it was first to be sent); `receives` how often it had been received before, where
    that is known."""

    queue: str
    id: str
    body: str
    reason: str
    at: datetime
    receives: int | None
    receipt: str


class DeadLetterQueue(Protocol):
    """One dead-letter queue: of a service's queue, or of what should have delivered to it. `name`: without the stack's.

    Every method raises BrokerUnavailable."""

    name: str

    def depth(self) -> int:
        """About how many letters it holds, those in somebody's hand included."""

    def take(self, limit: int) -> list[DeadLetter]:
        """Up to `limit` letters, ten at most; nobody else gets them for HOLD seconds."""

    def give_back(self, letters: Sequence[DeadLetter]) -> None:
        """Lets others see them again."""

    def redrive(self, letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
        """Sends letters to where they should have gone and takes them from here; those that were sent. At least once:
        if it fails in between they stay here, too, and the service knows by then what it has done."""

    def discard(self, letters: Sequence[DeadLetter]) -> None:
        """Deletes letters."""


class Broker(Protocol):
    """Everything a process asks of its broker."""

    def send(self, channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        """Sends up to ten messages over one channel; `target` is the bus, or the service whose queue it is.

        Returns the entries that were not taken. Raises BrokerUnavailable if nothing is known of the whole batch or this
        destination takes nothing now, and BatchRefused if the broker took none for what may be in it. Called by several
        threads at once, each with a destination of its own.
        """

    def queue(self, service: str) -> Queue:
        """The queue of a service."""

    def dead_letters(self, service: str) -> Sequence[DeadLetterQueue]:
        """The dead-letter queues of all ways to a service: its queue's own, and those of its subscription and rule."""

    def ready(self) -> bool:
        """Whether the broker answers and its stack is whole. While it isn't, nothing may be published:
        SNS and EventBridge accept and silently drop where a subscription or rule is missing. One destination that
        fails says nothing about that."""

    def close(self) -> None:
        """Ends what is open; a receive that waits comes back."""
