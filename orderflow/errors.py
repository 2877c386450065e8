"""The class of an error decides what happens to the message that met it.

`Transient`: wait and retry; it is never counted against the message. `Rejected`: dead-letter it at once.
Anything else that a handler raises is counted per message, which is dead-lettered at the fifth failure.
"""

from __future__ import annotations

from dataclasses import dataclass, field


class OrderflowError(Exception):
    """Base of all errors that orderflow raises on purpose."""


class ConfigurationError(OrderflowError):
    """A setting is missing or wrong. The text names the setting, its value and the way out."""


class Transient(OrderflowError):
    """The cause lies outside the message (database, broker, provider, deadlock): a retry of it can succeed."""


class DatabaseUnavailable(Transient):
    """PostgreSQL is unavailable, refused the connection, or ended the transaction."""


class Unsendable(OrderflowError):
    """A message without a route in its order's workflow, or over the size limit: a bug in the code that made it."""


class Contended(DatabaseUnavailable):
    """Another transaction holds a row that is needed, or won a conflict. The database itself is available."""


class BrokerUnavailable(Transient):
    """The broker is unreachable, its stack isn't complete (yet), or it accepts nothing for this destination now.

    `code`: the error code that it answered with; empty if there was no answer. `done_nothing`: the call certainly had
    no effect, because it was refused or did not reach the broker; otherwise only its answer may have been lost."""

    def __init__(self, reason: str, code: str = "", *, done_nothing: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.done_nothing = done_nothing


class UnknownOutcome(Transient):
    """A call or a commit ended without an answer: it may or may not have taken effect."""


class CommitUnanswered(DatabaseUnavailable, UnknownOutcome):
    """The connection was lost after COMMIT had been sent."""


class NewerVersion(Transient):
    """A message of a version that this process doesn't know yet: its consumer is about to be deployed."""


class UnreadableRow(Transient):
    """A stored row of a newer release, after a rollback: that release is about to be deployed again."""


class Rejected(OrderflowError):
    """The message can never be handled here; it is dead-lettered with this text as the reason."""


class Undecodable(Rejected):
    """The text is not an envelope, or its data doesn't fit its type."""


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
