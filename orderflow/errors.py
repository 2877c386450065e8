"""The class of an error decides what happens to the message that met it.

`Transient`: wait and try again, never counted against the message. `Rejected`: park it at once.
Anything else a handler raises is counted per message and parks it at the fifth failure.
"""

from __future__ import annotations

from dataclasses import dataclass, field


class OrderflowError(Exception):
    """Base of all errors that orderflow raises on purpose."""


class ConfigurationError(OrderflowError):
    """A setting is missing or wrong. The text names the setting, its value and the way out."""


class Transient(OrderflowError):
    """The fault lies in the surroundings (database, broker, provider, deadlock): the same message can succeed later."""


class DatabaseUnavailable(Transient):
    """PostgreSQL is away, refused the connection, or ended the transaction."""


class Unsendable(OrderflowError):
    """A message that has no route in its order's workflow, or is over the cap: a bug in what made it."""


class Contended(DatabaseUnavailable):
    """A row that this needs is held by another transaction, or that one won a conflict; the database works."""


class BrokerUnavailable(Transient):
    """The broker is unreachable, its stack isn't (yet) whole, or it takes nothing for this destination now.

    `code`: the error code that it answered with; empty if there was no answer. `done_nothing`: it surely did nothing of
    what it was asked, because it refused that, or was not reached; else its answer may be what is lost."""

    def __init__(self, reason: str, code: str = "", *, done_nothing: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.done_nothing = done_nothing


class UnknownOutcome(Transient):
    """A call or a commit ended without an answer: it may or may not have taken effect."""


class CommitUnanswered(DatabaseUnavailable, UnknownOutcome):
    """The connection was lost after COMMIT had been sent."""


class NewerVersion(Transient):
    """A message of a version this process doesn't know yet: its consumer is about to be deployed."""


class UnreadableRow(Transient):
    """A stored row of a newer release, after a rollback: that release is about to be deployed again."""


class Rejected(OrderflowError):
    """The message can never be handled here; it is parked in the dead-letter queue with this text as the reason."""


class Undecodable(Rejected):
    """Not an envelope, or its data doesn't fit its type."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of a request: a JSON pointer such as `/items/0/quantity`, and what is wrong with it."""

    pointer: str
    detail: str


@dataclass
class Problem(OrderflowError):
    """An HTTP answer in the form of RFC 9457 (problem+json)."""

    status: int
    title: str
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.status} {self.title}: {self.detail}"
