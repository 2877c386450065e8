"""The verdicts on a message, and the guard that turns any error into one.

The guard covers every stage of a message (its decoding, the reaction, the handler, the messages that it stages, the
provider's answer): an error affects only the message that met it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import structlog

from orderflow.errors import Contended, Rejected, Transient
from orderflow.messaging.handling import Handling

log = structlog.get_logger(__name__)


class Done:
    """Handled: acknowledge it."""

    label: ClassVar[str] = "done"  # of metrics and spans, like the others: public, so it survives a rename of the class


@dataclass(frozen=True, slots=True)
class Retry:
    """Not now: make it visible again later. `soon`: it waits for something short, such as a locked row."""

    label: ClassVar[str] = "later"
    reason: str
    soon: bool = False


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """Never: move it to the dead-letter queue."""

    label: ClassVar[str] = "park"
    reason: str


Verdict = Done | Retry | DeadLettered
"""`label` is its name in metrics and traces, which are public: it outlives the names of the classes."""


class Guard:
    """The guard of one service. `count_failure` counts a message's failure in the database, under an id (a UUID), and
    returns the number so far; at `parked_at` failures the message is dead-lettered."""

    def __init__(self, service: str, count_failure: Callable[[str, str], int], *, parked_at: int) -> None:
        self._service = service
        self._count_failure = count_failure
        self._parked_at = parked_at

    def verdict(
        self, error: Exception, message_id: str, about: Mapping[str, str], handling: Handling | None = None
    ) -> Retry | DeadLettered:
        """The verdict on a message whose handling raised `error`. Never raises."""
        if isinstance(error, Rejected):
            return DeadLettered(str(error))
        if isinstance(error, Transient):
            return Retry(str(error), soon=isinstance(error, Contended))
        try:
            times = self._count_failure(message_id, repr(error))
        except Transient as unavailable:
            return Retry(str(unavailable))
        except Exception as uncounted:
            log.exception("a failure could not be counted", failure=repr(error), **about)
            return Retry(repr(uncounted))
        if handling:
            handling.failed(error)
        log.error("handler failed", service=self._service, times=times, exc_info=error, **about)
        if times >= self._parked_at:
            return DeadLettered(f"handler failed {times} times; last: {error!r}")
        return Retry(repr(error))
