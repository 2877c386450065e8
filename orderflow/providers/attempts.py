"""One call to a provider: its attempts under one key, which neither outlast their lease nor the provider's memory."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from orderflow import clock, failpoints, telemetry
from orderflow.errors import Transient
from orderflow.messaging.handling import Handling
from orderflow.providers import EXPIRED, Answer, Refused, Success, Voided
from orderflow.providers.breaker import Breaker
from orderflow.providers.intents import Claim
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

_BACKOFF: Final = 0.2
"""Seconds that the first retry waits at most, doubled with each; full jitter:
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""


@dataclass(frozen=True, slots=True)
class Limits:
    """How a provider is called; times in seconds. `timeout` is of one attempt, `key_life` how long the provider keeps
    an idempotency key, `lease` how long an intent is its taker's at least. After `outage_after` orders in a row without
    an answer the provider counts as unreachable, and is asked once in `probe_every`."""

    timeout: float = 2
    attempts: int = 3
    concurrency: int = 16
    key_life: float = 24 * 3600
    lease: float = 10
    backoff: float = _BACKOFF
    outage_after: int = 10
    probe_every: float = 5

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """As the settings say."""
        return cls(
            timeout=settings.provider_timeout,
            attempts=settings.provider_attempts,
            concurrency=settings.provider_concurrency,
            key_life=settings.provider_key_life,
            lease=settings.lease,
        )

    @property
    def whole_lease(self) -> float:
        """A lease that all attempts of a call fit into."""
        longest: float = self.attempts * self.timeout + 2**self.attempts * self.backoff + 1
        return max(self.lease, longest)


@dataclass(frozen=True, slots=True)
class Called:
    """What came of a call. `answer` is None if nobody knows; `fault` is a bug in the provider's client; `attempted` is
    False where the provider was not asked at all, as it is known to be unreachable, or the process stops."""

    taken: Claim
    answer: Answer | None
    fault: Exception | None = None
    attempted: bool = True


class Caller(Protocol):
    """Who calls: the application, with its provider."""

    service: str
    kind: str
    limits: Limits
    breaker: Breaker
    stopping: threading.Event

    def do(self, key: str, order_id: str, request: dict[str, Any]) -> Success | Refused: ...

    def void(self, key: str, order_id: str) -> Voided: ...

    def lookup(self, key: str) -> Success | None: ...

    def count(self, what: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """The call for an intent that was taken at `began` (monotonic seconds)."""

    caller: Caller
    taken: Claim
    began: float
    handling: Handling | None = None

    def withheld(self) -> Called:
        """As if it had been made without an answer: the provider is known to be unreachable."""
        self.caller.count("withheld")
        return Called(self.taken, None, attempted=False)

    def __call__(self) -> Called:
        """Makes it. Never raises but when the process dies."""
        caller, taken, limits = self.caller, self.taken, self.caller.limits
        caller.count("calls")
        answer = fault = None
        attempted = False
        for attempt in range(limits.attempts):
            if attempt:
                caller.stopping.wait(random.uniform(0, limits.backoff * 2 ** (attempt - 1)))
            elapsed = time.monotonic() - self.began
            if caller.stopping.is_set() or elapsed + limits.timeout > limits.whole_lease:
                break  # it would outlast the lease, or the process
            caller.count("attempts")
            attempted = True
            try:
                name = f"void {caller.kind}" if taken.undo else caller.kind
                with telemetry.provider_call(name, self.handling.span if self.handling else None, caller.service):
                    answer = self._attempt(elapsed, first=not attempt)
                break
            except (Transient, OSError) as error:
                log.warning(
                    "no answer from the provider", order_id=taken.order_id, kind=caller.kind, undo=taken.undo,
                    attempt=attempt + 1, error=str(error),
                )  # fmt: skip
                if caller.breaker.failed(taken.order_id):
                    log.error("the provider is unreachable: its calls wait in the database", kind=caller.kind)
                if caller.breaker.open:
                    break  # probes ask for everybody
            except Exception as error:  # noqa: BLE001 - it is counted against its message, in phase 3
                fault = error
                break
        if answer is None:
            caller.count("unknown")
        elif caller.breaker.succeeded():
            log.info("the provider answers again", kind=caller.kind)
        return Called(taken, answer, fault, attempted)

    def _attempt(self, elapsed: float, *, first: bool) -> Answer:
        caller, taken = self.caller, self.taken
        key = f"{taken.order_id}:{caller.kind}"
        if taken.undo:
            failpoints.reached("undo.before")
            answer: Answer = caller.void(key, taken.order_id)
            failpoints.reached("undo.after")
        elif self._fresh(elapsed, first=first):
            failpoints.reached("call.before")
            # Of an order older than its keys the provider may have one that both it and this database, restored from a
            # backup, have forgotten: its ledger tells.
            old = clock.age(taken.order_id) >= caller.limits.key_life
            answer = (caller.lookup(key) if old else None) or caller.do(key, taken.order_id, taken.request)
            failpoints.reached("call.after")
        else:
            # The provider may have forgotten the key: to ask again could do it twice. Voided, it can't be done late.
            answer = caller.lookup(key) or self._give_up(key)
        return answer

    def _fresh(self, elapsed: float, *, first: bool) -> bool:
        """Whether the provider still keeps the key while an attempt that begins now lasts."""
        limits, taken = self.caller.limits, self.taken
        never_asked = taken.fence == 1 and first
        return never_asked or taken.age + elapsed + limits.timeout < limits.key_life

    def _give_up(self, key: str) -> Refused:
        self.caller.void(key, self.taken.order_id)
        return Refused(EXPIRED)
