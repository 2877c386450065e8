"""One call to a provider: attempts under one key, which outlast neither their lease nor the provider's memory of it."""

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
class CallPolicy:
    """How a provider is called; times in seconds. `timeout` is that of one attempt, `key_life` how long the provider
    keeps an idempotency key, `lease` the shortest time for which a process holds an intent. After `outage_after` orders
    in a row without an answer, the provider counts as unreachable, and gets one call every `probe_every` seconds."""

    timeout: float = 2
    attempts: int = 3
    concurrency: int = 16
    key_life: float = 24 * 3600
    lease: float = 10
    backoff: float = _BACKOFF
    outage_after: int = 10
    probe_every: float = 5

    @classmethod
    def of(cls, settings: Settings) -> CallPolicy:
        """The policy that the settings give."""
        return cls(
            timeout=settings.provider_timeout,
            attempts=settings.provider_attempts,
            concurrency=settings.provider_concurrency,
            key_life=settings.provider_key_life,
            lease=settings.lease,
        )

    @property
    def whole_lease(self) -> float:
        """A lease that is long enough for all attempts of a call."""
        longest: float = self.attempts * self.timeout + 2**self.attempts * self.backoff + 1
        return max(self.lease, longest)


@dataclass(frozen=True, slots=True)
class Called:
    """The result of a call. `answer` is None if the outcome is unknown; `fault` is a bug in the provider's client;
    `attempted` is False if no attempt was made, because the provider is unreachable or the process stops."""

    taken: Claim
    answer: Answer | None
    fault: Exception | None = None
    attempted: bool = True


class Caller(Protocol):
    """The caller: an application with its provider."""

    service: str
    kind: str
    policy: CallPolicy
    breaker: Breaker
    stopping: threading.Event

    def do(self, key: str, order_id: str, request: dict[str, Any]) -> Success | Refused: ...

    def void(self, key: str, order_id: str) -> Voided: ...

    def lookup(self, key: str) -> Success | None: ...

    def count(self, what: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """The call for an intent that was claimed at `began` (monotonic seconds)."""

    caller: Caller
    taken: Claim
    began: float
    handling: Handling | None = None

    def withheld(self) -> Called:
        """The result of a call that is not made, because the provider is known to be unreachable."""
        self.caller.count("withheld")
        return Called(self.taken, None, attempted=False)

    def __call__(self) -> Called:
        """Makes the call. Never raises, unless the process dies."""
        caller, taken, policy = self.caller, self.taken, self.caller.policy
        caller.count("calls")
        answer = fault = None
        attempted = False
        for attempt in range(policy.attempts):
            if attempt:
                caller.stopping.wait(random.uniform(0, policy.backoff * 2 ** (attempt - 1)))
            elapsed = time.monotonic() - self.began
            if caller.stopping.is_set() or elapsed + policy.timeout > policy.whole_lease:
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
                    log.error("the provider is unreachable; its calls wait in the database", kind=caller.kind)
                if caller.breaker.open:
                    break  # from now on, only probes call the provider
            except Exception as error:  # noqa: BLE001 - phase 3 counts it against its message
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
            # If the order is older than the life of a key, the provider may have executed a call that its keys and this
            # database (restored from a backup) no longer show: the provider's ledger does.
            old = clock.age(taken.order_id) >= caller.policy.key_life
            answer = (caller.lookup(key) if old else None) or caller.do(key, taken.order_id, taken.request)
            failpoints.reached("call.after")
        else:
            # The provider may have forgotten the key, so a retry could take effect twice. After voiding the key, a late
            # call can't take effect.
            answer = caller.lookup(key) or self._give_up(key)
        return answer

    def _fresh(self, elapsed: float, *, first: bool) -> bool:
        """Whether the provider keeps the key until an attempt that begins now has ended."""
        policy, taken = self.caller.policy, self.taken
        never_asked = taken.fence == 1 and first
        return never_asked or taken.age + elapsed + policy.timeout < policy.key_life

    def _give_up(self, key: str) -> Refused:
        self.caller.void(key, self.taken.order_id)
        return Refused(EXPIRED)
