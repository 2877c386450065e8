"""What becomes of a message: the verdicts, and the one guard that turns whatever was raised into one.

Every stage of a message's way (its decoder, the reaction, the handler, what it stages, the provider's answer) is under
this guard: an error concerns the message that met it, and no other.
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
    """Handled: acknowledge."""

    label: ClassVar = "done"  # of metrics and spans, as that of the others: public, so it stays when a class is renamed


@dataclass(frozen=True, slots=True)
class Retry:
    """Not now: let it become visible again. `soon`: what it waits for is rarely held for long, such as a locked row."""

    label: ClassVar = "later"
    reason: str
    soon: bool = False


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """Never: move it to the dead-letter queue."""

    label: ClassVar = "park"
    reason: str


Verdict = Done | Retry | DeadLettered


class Guard:
    """Of one service. `count_failure` counts a message's failure in the database, under an id (a UUID), and gives how
    many there are by now; at `parked_at` the message is dead-lettered."""

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
        except Transient as away:
            return Retry(str(away))
        except Exception as uncounted:
            log.exception("a failure could not be counted", failure=repr(error), **about)
            return Retry(repr(uncounted))
        if handling:
            handling.failed(error)
        log.error("handler failed", service=self._service, times=times, exc_info=error, **about)
        if times >= self._parked_at:
            return DeadLettered(f"handler failed {times} times; last: {error!r}")
        return Retry(repr(error))
