"""Behaviours that AWS documents and an emulator never shows: each with its page, its probability and a count.

This module is pure: it draws from one seed, reads no clock and makes no calls.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

_SQS: Final = "https://docs.aws.amazon.com/AWSSimpleQueueService/latest"
_SNS: Final = "https://docs.aws.amazon.com/sns/latest"
_EVENTS: Final = "https://docs.aws.amazon.com/eventbridge/latest"
_STATES: Final = "https://docs.aws.amazon.com/step-functions/latest"


class Behaviour(StrEnum):
    """One thing that AWS may do."""

    FEWER = "a receive brings fewer than asked for"
    FALSE_EMPTY = "a short poll misses what is there"
    DUPLICATE = "a message is delivered to two at once"
    STAYS = "a deleted message is delivered again"
    REORDER = "messages overtake each other"
    DELAY = "an event reaches its queues late"
    LATENCY = "a call is slow"
    THROTTLE = "a call is throttled"
    THROTTLE_ENTRY = "an entry of a batch is throttled"
    FAIL_ENTRY = "an entry of a batch fails"
    UNAVAILABLE = "a call fails without effect"
    LOST_ANSWER = "a call fails after it took effect"
    OVER_LIMIT = "too many messages are in flight"
    BUCKET = "an action's token bucket is empty"
    EXPIRED = "credentials have expired"
    SPENT_TOKEN = "a spent task token has timed out"
    LATE_FILTER = "a changed filter takes effect late"


PAGES: Final[Mapping[Behaviour, str]] = {
    Behaviour.FEWER: f"{_SQS}/APIReference/API_ReceiveMessage.html",
    Behaviour.FALSE_EMPTY: f"{_SQS}/SQSDeveloperGuide/sqs-short-and-long-polling.html",
    Behaviour.DUPLICATE: f"{_SQS}/SQSDeveloperGuide/standard-queues-at-least-once-delivery.html",
    Behaviour.STAYS: f"{_SQS}/APIReference/API_DeleteMessage.html",
    Behaviour.REORDER: f"{_SQS}/SQSDeveloperGuide/standard-queues.html",
    Behaviour.DELAY: f"{_SNS}/dg/sns-message-delivery-retries.html",
    Behaviour.LATENCY: f"{_SQS}/SQSDeveloperGuide/throughput.html",
    Behaviour.THROTTLE: f"{_SQS}/APIReference/CommonErrors.html",
    Behaviour.THROTTLE_ENTRY: f"{_SNS}/api/API_BatchResultErrorEntry.html",
    Behaviour.FAIL_ENTRY: f"{_EVENTS}/userguide/eb-putevents.html",
    Behaviour.UNAVAILABLE: f"{_SNS}/api/CommonErrors.html",
    Behaviour.LOST_ANSWER: "https://docs.aws.amazon.com/wellarchitected/latest/framework/"
    "rel_prevent_interaction_failure_idempotent.html",
    Behaviour.OVER_LIMIT: f"{_SQS}/SQSDeveloperGuide/quotas-queues.html",
    Behaviour.BUCKET: f"{_STATES}/dg/service-quotas.html",
    Behaviour.EXPIRED: f"{_SNS}/api/CommonErrors.html",
    Behaviour.SPENT_TOKEN: f"{_STATES}/apireference/API_SendTaskSuccess.html",
    Behaviour.LATE_FILTER: f"{_SNS}/dg/sns-subscription-filter-policies.html",
}
"""The page on which AWS documents it."""

USUAL: Final[Mapping[Behaviour, float]] = {
    Behaviour.FEWER: 0.3,
    Behaviour.FALSE_EMPTY: 0.3,
    Behaviour.DUPLICATE: 0.05,
    Behaviour.STAYS: 0.05,
    Behaviour.REORDER: 0.2,
    Behaviour.DELAY: 0.1,
    Behaviour.LATENCY: 1.0,
    Behaviour.THROTTLE: 0.02,
    Behaviour.THROTTLE_ENTRY: 0.05,
    Behaviour.FAIL_ENTRY: 0.03,
    Behaviour.UNAVAILABLE: 0.01,
    Behaviour.LOST_ANSWER: 0.01,
    Behaviour.SPENT_TOKEN: 0.3,
}
"""How often each happens if a test names no other chances: more often than on AWS, so that short tests meet them."""

FAILURES: Final = frozenset(
    {
        Behaviour.THROTTLE,
        Behaviour.THROTTLE_ENTRY,
        Behaviour.FAIL_ENTRY,
        Behaviour.UNAVAILABLE,
        Behaviour.LOST_ANSWER,
        Behaviour.OVER_LIMIT,
        Behaviour.BUCKET,
        Behaviour.EXPIRED,
    }
)
"""The behaviours that the caller sees as a failure."""

LATENCY: Final = (0.005, 0.150)
"""The least and the most seconds that a call takes."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as AWS answers it. `sender`: AWS marks it as the sender's fault, which blames no single message."""

    code: str
    status: int = 400
    sender: bool = True


class Refused(Exception):
    """A call that AWS refuses."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.code)
        self.fault = fault


THROTTLED: Final[Mapping[str, tuple[Fault, ...]]] = {
    "sqs": (Fault("ThrottlingException"), Fault("RequestThrottled")),
    "sns": (Fault("ThrottlingException"), Fault("Throttled", 429)),
    "events": (Fault("ThrottlingException"),),
    "stepfunctions": (Fault("ThrottlingException"),),
}
UNAVAILABLE: Final = (Fault("InternalFailure", 500, sender=False), Fault("ServiceUnavailable", 503, sender=False))
EXPIRED: Final[Mapping[str, tuple[Fault, ...]]] = {
    "sqs": (Fault("ExpiredToken", 403), Fault("InvalidClientTokenId", 403)),
    "sns": (Fault("ExpiredToken", 403), Fault("InvalidClientTokenId", 403)),
    "events": (Fault("ExpiredTokenException", 403), Fault("UnrecognizedClientException", 403)),
    "stepfunctions": (Fault("ExpiredTokenException", 403), Fault("UnrecognizedClientException", 403)),
}
OVER_LIMIT: Final = Fault("OverLimit")
THROTTLED_ENTRY: Final[Mapping[str, Fault]] = {
    "sqs": Fault("RequestThrottled"),
    "sns": Fault("Throttled"),
    "events": Fault("ThrottlingException"),
}
FAILED_ENTRY: Final[Mapping[str, Fault]] = {
    "sqs": Fault("InternalError", sender=False),
    "sns": Fault("InternalError", sender=False),
    "events": Fault("InternalFailure", sender=False),
}

BUCKETS: Final[Mapping[str, tuple[int, int]]] = {
    "StartExecution": (800, 150),
    "DescribeExecution": (250, 10),
    "GetExecutionHistory": (400, 20),
    "SendTaskSuccess": (1500, 300),
}
"""The tokens that an action's bucket holds, and those it gets per second, outside the three largest regions."""

IN_FLIGHT: Final = 120_000
"""The most messages of a standard queue that may be in flight: received, and neither deleted nor visible again."""


@dataclass(slots=True)
class Bucket:
    """A token bucket; `at` is when it was last used, in the caller's seconds."""

    size: float
    refill: float
    tokens: float
    at: float

    def take(self, now: float) -> bool:
        """Takes one token, if there is one."""
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.refill)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Rules:
    """Draws what happens. `fired` counts it; `calls` counts the calls, by operation. Safe for threads.

    `scale` multiplies the quotas: AWS's own are out of reach for a test. With 0 there are no quotas. Credentials are
    valid until `expire`, and again after `renew`.
    """

    def __init__(self, seed: int, chances: Mapping[Behaviour, float] = USUAL, *, scale: float = 0) -> None:
        self.chances = dict(chances)
        self.fired: Counter[Behaviour] = Counter()
        self.calls: Counter[str] = Counter()
        self.expired = False
        self.in_flight = max(1, round(IN_FLIGHT * scale)) if scale else None
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._buckets = {
            name: Bucket(max(1, size * scale), refill * scale, max(1, size * scale), 0.0)
            for name, (size, refill) in BUCKETS.items()
            if scale
        }

    @property
    def failures(self) -> int:
        """Calls and entries that failed so far."""
        return sum(self.fired[what] for what in FAILURES)

    @property
    def quiet(self) -> bool:
        """Whether nothing is left to chance."""
        return not any(self.chances.values())

    def reseed(self, seed: int) -> None:
        """Draws from this seed from now on."""
        self._random.seed(seed)

    @contextmanager
    def calmed(self) -> Iterator[None]:
        """Leaves nothing to chance within the context: for a test, or a part of one, that counts exact steps."""
        chances, self.chances = self.chances, {}
        try:
            yield
        finally:
            self.chances = chances

    def happens(self, what: Behaviour) -> bool:
        """Draws whether it happens, and counts it."""
        chance = self.chances.get(what, 0.0)
        with self._lock:
            hit = chance > 0 and self._random.random() < chance
            self.fired[what] += hit
            return hit

    def count(self, what: Behaviour) -> None:
        """Counts what happened without a draw."""
        with self._lock:
            self.fired[what] += 1

    def between(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        with self._lock:
            return self._random.randint(low, high)

    def latency(self) -> float:
        """The seconds that this call takes."""
        if not self.happens(Behaviour.LATENCY):
            return 0.0
        with self._lock:
            return self._random.uniform(*LATENCY)

    def refusal(self, service: str, operation: str, now: float) -> Fault | None:
        """The error with which a call is refused before it takes effect, at `now` seconds."""
        with self._lock:
            self.calls[operation] += 1
        if self.expired:
            self.count(Behaviour.EXPIRED)
            return self.one_of(EXPIRED[service])
        bucket = self._buckets.get(operation)
        if bucket is not None:
            with self._lock:
                empty = not bucket.take(now)
            if empty:
                self.count(Behaviour.BUCKET)
                return THROTTLED[service][0]
        if self.happens(Behaviour.THROTTLE):
            return self.one_of(THROTTLED[service])
        return self.one_of(UNAVAILABLE) if self.happens(Behaviour.UNAVAILABLE) else None

    def entry(self, service: str) -> Fault | None:
        """The error with which one entry of a batch is refused."""
        if self.happens(Behaviour.THROTTLE_ENTRY):
            return THROTTLED_ENTRY[service]
        return FAILED_ENTRY[service] if self.happens(Behaviour.FAIL_ENTRY) else None

    def one_of(self, faults: tuple[Fault, ...]) -> Fault:
        with self._lock:
            return self._random.choice(faults)

    def shuffle(self, items: list[Any]) -> None:
        with self._lock:
            self._random.shuffle(items)

    def expire(self) -> None:
        """Expires everybody's credentials."""
        self.expired = True

    def renew(self) -> None:
        """Renews them."""
        self.expired = False
