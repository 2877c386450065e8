"""What the kernel needs from a service: its reaction to a message, and its handling of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from orderflow.contracts import Message, OrderSnapshot
from orderflow.database import Connection, Database
from orderflow.database.holders import Need
from orderflow.envelope import Envelope, compose
from orderflow.messaging.handling import Handling
from orderflow.messaging.outbox import UnitOfWork


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message to handle: the service's own command (after the reaction), and the envelope that it came in.

    `forward` is the order's snapshot that choreography passes on; `known` marks a resent message that has had its
    effect before; `result` is the result of a provider call; `handling` is its place in the trace."""

    envelope: Envelope
    message: Message
    forward: OrderSnapshot | None = None
    known: bool = False
    result: Any = None
    handling: Handling | None = None

    @property
    def order_id(self) -> str:
        return self.envelope.subject

    @property
    def traceparent(self) -> str | None:
        """The trace context for the messages that it causes."""
        return self.handling.traceparent if self.handling else self.envelope.traceparent

    def answer(self, message: Message, source: str, message_id: str | None = None) -> Envelope:
        """`message` in an envelope that answers this one: with its workflow, its token and its id as the cause."""
        asked = self.envelope
        if self.forward is not None and "order" in type(message).model_fields:
            message = message.model_copy(update={"order": self.forward})
        return compose(
            message,
            source=source,
            order_id=asked.subject,
            workflow=asked.workflow,
            event_bus=asked.eventbus,
            message_id=message_id,
            causation_id=asked.id,
            traceparent=self.traceparent,
            resend=asked.resend,
            task_token=asked.tasktoken,
        )


Reply = Sequence[Message | Envelope] | Exception
"""The messages that a message caused (put into envelopes here, unless they are in one). Or the error of this message
alone, which is treated as if it had been raised for it: the message has had no effect."""


class Application(Protocol):
    """What a service does with messages. `accept` turns an event into the service's own command (its reaction);
    None means that there is nothing to do. `whole_orders`: `handle` accepts several messages of one order at once."""

    service: str
    whole_orders: bool

    def accept(self, message: Message) -> Message | None: ...

    def handle(self, unit: UnitOfWork, batch: Sequence[Incoming]) -> Sequence[Reply]: ...

    def needs(self, database: Database, batch: Sequence[Incoming]) -> Iterable[Need]:
        """The rows that `handle` (or `begin`) locks, if they exist. Called only while some rows are locked."""


@runtime_checkable
class Locks(Protocol):
    """Part of an application that locks the same rows whatever the inbox says: both queries are sent together."""

    def lock(self, connection: Connection, batch: Sequence[Incoming]) -> object:
        """Sends the query for the rows without waiting for it; `handle` finds the result as the unit's `locked`."""
