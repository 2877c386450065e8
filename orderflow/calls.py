"""Calls to a provider in three phases, none of which holds a transaction open while the provider thinks.

1. `begin` commits the intent, with its fence and lease. 2. The call runs in a bounded pool, under a key that follows
from the order, so that asking again is harmless. 3. `handle` records the answer where the fence still matches, in one
transaction with the inbox and the outbox. The outcome is always told from the row.

An undo raises the fence, then voids the key: afterwards the step has been taken back or can't happen any more, also
when its call is still on the way.
"""

from __future__ import annotations

import random
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import structlog

from orderflow import clock, contracts, failpoints, measures, telemetry
from orderflow.contracts import Message
from orderflow.errors import Transient, UnknownOutcome
from orderflow.intents import DONE, INTENDED, REFUSED, UNDOING, UNDONE, Asked, Intent, Intents, Settled, Taken
from orderflow.outbox import Unit
from orderflow.processor import Incoming, Reply
from orderflow.providers import EXPIRED, Answer, Refused, Success, Voided
from orderflow.saga import Step
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

_BACKOFF: Final = 0.2
"""Seconds that the first retry waits at most, doubled with each; full jitter:
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""


@dataclass(frozen=True, slots=True)
class Limits:
    """How a provider is called; times in seconds. `timeout` is of one attempt, `key_life` how long the provider keeps
    an idempotency key, `lease` how long an intent is its taker's at least."""

    timeout: float = 2
    attempts: int = 3
    concurrency: int = 16
    key_life: float = 24 * 3600
    lease: float = 10
    backoff: float = _BACKOFF

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
    """What came of a call. `answer` is None if nobody knows; `fault` is a bug in the provider's client."""

    taken: Taken
    answer: Answer | None
    fault: Exception | None = None


class CallingApplication(ABC):
    """An application of the kernel whose step is done by a provider. Subclasses say what their messages mean.

    `executor` runs the calls; by default a pool of its own.
    """

    service: str
    whole_orders = False
    step: Step
    kind: str
    """What the provider does: with the order's id it makes the idempotency key."""

    def __init__(self, table: str, limits: Limits, *, executor: Executor | None = None) -> None:
        self.intents = Intents(table)
        self.counts: Counter[str] = Counter()
        """Calls, attempts, and calls without an answer (`unknown`), of this process."""
        self._limits = limits
        self._executor = executor or ThreadPoolExecutor(limits.concurrency, thread_name_prefix=f"{self.kind}-call")
        self._room = threading.BoundedSemaphore(limits.concurrency)
        self._counting = threading.Lock()
        self._stopping = threading.Event()

    @abstractmethod
    def accept(self, message: Message) -> Message | None:
        """The reaction; see `Application`."""

    @abstractmethod
    def request(self, command: Message) -> dict[str, Any]:
        """What the call needs of the command, as JSON; kept with the intent, so that every attempt is the same."""

    @abstractmethod
    def do(self, key: str, order_id: str, request: dict[str, Any]) -> Success | Refused:
        """The provider's call; see `orderflow.providers` for what it may raise, and so for the next two."""

    @abstractmethod
    def void(self, key: str, order_id: str) -> Voided: ...

    @abstractmethod
    def lookup(self, key: str) -> Success | None: ...

    @abstractmethod
    def success(self, row: Intent) -> Message:
        """The outcome of a row that is done."""

    @abstractmethod
    def undone(self, row: Intent) -> Message:
        """The outcome of a row that is undone."""

    def begin(self, unit: Unit, batch: Sequence[Incoming]) -> Sequence[Callable[[], Called] | None]:
        """Phase 1; see `ProviderCalls`."""
        failpoints.reached("intent.before")
        began = time.monotonic()
        asked = [
            Asked(m.order_id, undo=True)
            if isinstance(m.message, self.step.undo)
            else Asked(m.order_id, undo=False, request=self.request(m.message))
            for m in batch
        ]
        taken = self.intents.take(unit.connection, asked, self._limits.whole_lease)
        return [self._call(mine, began, m.step) if (mine := taken.get(m.order_id)) else None for m in batch]

    def submit(self, call: Callable[[], Called]) -> Future[Called]:
        """Phase 2. Waits while all of the pool is at work: what waited in a queue would only use up its lease."""
        failpoints.reached("intent.after")
        self._room.acquire()
        try:
            future = self._executor.submit(call)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future

    def handle(self, unit: Unit, batch: Sequence[Incoming]) -> Sequence[Reply]:
        """Phase 3: records the answers, then tells every outcome from its row."""
        called = [m.result for m in batch if isinstance(m.result, Called)]
        if called:
            self.intents.settle(unit.connection, [_settled(c) for c in called])
        rows = self.intents.read(unit.connection, [m.order_id for m in batch])
        return [self._reply(m, rows[m.order_id]) for m in batch]

    def close(self) -> None:
        """Begins no further attempt. Those that run end within their timeout."""
        self._stopping.set()
        self._executor.shutdown(wait=False)

    def _reply(self, incoming: Incoming, row: Intent) -> Reply:
        if isinstance(incoming.message, self.step.undo):
            if row.state == UNDONE:
                return [self.undone(row)]
        elif row.state == DONE:
            return [self.success(row)]
        elif row.state == REFUSED:
            return [self.step.refusal(reason=row.reason)]
        elif row.state in (UNDOING, UNDONE):
            return [self.step.refusal(reason=contracts.UNDONE)]
        if incoming.result is None:
            return Transient(f"another process is at the {self.kind} of {row.order_id}")
        return incoming.result.fault or UnknownOutcome(f"the provider gave no answer for {row.order_id}:{self.kind}")

    def _call(self, taken: Taken, began: float, step: telemetry.Step | None) -> Callable[[], Called]:
        """The call for an intent taken at `began` (monotonic). It never raises but when the process dies."""

        def call() -> Called:
            self._count("calls")
            answer = fault = None
            for attempt in range(self._limits.attempts):
                if attempt:
                    self._stopping.wait(random.uniform(0, self._limits.backoff * 2 ** (attempt - 1)))
                elapsed = time.monotonic() - began
                if self._stopping.is_set() or elapsed + self._limits.timeout > self._limits.whole_lease:
                    break  # it would outlast the lease, or the process
                self._count("attempts")
                try:
                    with telemetry.provider_call(f"void {self.kind}" if taken.undo else self.kind, step, self.service):
                        answer = self._attempt(taken, elapsed, first=not attempt)
                    break
                except (Transient, OSError) as error:
                    log.warning(
                        "no answer from the provider", order_id=taken.order_id, kind=self.kind, undo=taken.undo,
                        attempt=attempt + 1, error=str(error),
                    )  # fmt: skip
                except Exception as error:  # noqa: BLE001 - it is counted against its message, in phase 3
                    fault = error
                    break
            if answer is None:
                self._count("unknown")
            return Called(taken, answer, fault)

        return call

    def _attempt(self, taken: Taken, elapsed: float, *, first: bool) -> Answer:
        key = f"{taken.order_id}:{self.kind}"
        if taken.undo:
            failpoints.reached("undo.before")
            answer: Answer = self.void(key, taken.order_id)
            failpoints.reached("undo.after")
        elif self._fresh(taken, elapsed, first=first):
            failpoints.reached("call.before")
            # Of an order older than its keys the provider may have one that both it and this database, restored from a
            # backup, have forgotten: its ledger tells.
            old = clock.age(taken.order_id) >= self._limits.key_life
            answer = (self.lookup(key) if old else None) or self.do(key, taken.order_id, taken.request)
            failpoints.reached("call.after")
        else:
            # The provider may have forgotten the key: to ask again could do it twice. Voided, it can't be done late.
            answer = self.lookup(key) or self._give_up(key, taken)
        return answer

    def _fresh(self, taken: Taken, elapsed: float, *, first: bool) -> bool:
        """Whether the provider still keeps the key while an attempt that begins now lasts."""
        never_asked = taken.fence == 1 and first
        return never_asked or taken.age + elapsed + self._limits.timeout < self._limits.key_life

    def _give_up(self, key: str, taken: Taken) -> Refused:
        self.void(key, taken.order_id)
        return Refused(EXPIRED)

    def _count(self, what: str) -> None:
        with self._counting:
            self.counts[what] += 1
            measures.provider_calls[self.kind, what] += 1


def _settled(called: Called) -> Settled:
    match called.answer:
        case Success(reference):
            return Settled(called.taken, DONE, reference)
        case Refused(reason):
            return Settled(called.taken, REFUSED, reason=reason)
        case Voided(reference, amount, currency):
            money = None if amount is None else {"amount": amount, "currency": currency}
            return Settled(called.taken, UNDONE, reference, result=money)
        case None:
            return Settled(called.taken, UNDOING if called.taken.undo else INTENDED)
