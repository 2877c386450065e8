"""What a service is to the kernel: what it makes of a message, and what it does with a batch of them."""

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
    """One message to handle: what it asks (after the reaction), and the envelope that asked.

    `forward` is the order's snapshot that choreography carries on; `known` marks one that had its effect before and
    is asked again; `result` is what a provider call gave; `handling` is its place in the trace."""

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
        """The trace context for what it causes."""
        return self.handling.traceparent if self.handling else self.envelope.traceparent

    def answer(self, message: Message, source: str, message_id: str | None = None) -> Envelope:
        """`message` in an envelope that is addressed by the asking one: its workflow, its token, its causation."""
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
"""What a message caused (put into envelopes here, unless it is in one); or why it can't be handled, as if that had been
raised for this message alone: then it has had no effect."""


class Application(Protocol):
    """What a service does with messages. `accept` turns an event into the service's own command (its reaction);
    None means that it has nothing to do. `whole_orders`: `handle` can take several messages of one order at once."""

    service: str
    whole_orders: bool

    def accept(self, message: Message) -> Message | None: ...

    def handle(self, unit: UnitOfWork, batch: Sequence[Incoming]) -> Sequence[Reply]: ...

    def needs(self, database: Database, batch: Sequence[Incoming]) -> Iterable[Need]:
        """The rows that `handle` (or `begin`) locks, as far as they exist. Asked for only while some are locked."""


@runtime_checkable
class Locks(Protocol):
    """The part of an application that needs the same rows whatever the inbox says: both questions travel together."""

    def lock(self, connection: Connection, batch: Sequence[Incoming]) -> object:
        """Sends for the rows, and doesn't wait for them; `handle` finds what this gave as the unit's `locked`."""
