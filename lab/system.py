"""What the lab requires of a running system, and of each side of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lab.workload import Variant


class System(Protocol):
    """A running orderflow that nobody else uses."""

    @property
    def folder(self) -> Path:
        """The folder for logs of the lab's own processes."""

    def url(self, part: str) -> str:
        """The HTTP address of a service, or of `localstack`."""

    def database(self, name: str) -> str:
        """The connection URL of a service's database, or of `providers`."""

    def pids(self) -> Mapping[str, int]:
        """The main process of every part: the services, `localstack`, `postgres`, perhaps `jaeger`."""


class Traceable(System, Protocol):
    """A system whose tracing can be switched."""

    def trace(self, on: bool) -> None:
        """Returns when every service is ready again, with its spans exported (or with no tracer at all)."""

    @property
    def spans_go_to(self) -> str:
        """The receiver of spans, in words."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters at one moment: AWS calls by operation, and messages that reached a consumer."""

    calls: Counter[str]
    deliveries: int

    def since(self, before: Counts) -> Counts:
        """The difference."""
        calls = Counter(self.calls)
        calls.subtract(before.calls)
        return Counts(+calls, self.deliveries - before.deliveries)


@dataclass(frozen=True, slots=True)
class Placed:
    """One order that ended; times are in seconds since the epoch. `asked`: when the client began to send its request;
    `answered`: when it had its answer; both only if there is a client."""

    accepted: float
    decided: float
    asked: float | None = None
    answered: float | None = None


@dataclass(frozen=True, slots=True)
class Loop:
    """The result of one closed loop. `unfinished` orders never ended; `refused` orders ended unconfirmed."""

    orders: list[Placed]
    unfinished: int = 0
    refused: int = 0
    errors: list[str] = field(default_factory=list)


class Side(Protocol):
    """One side of a comparison: something that runs orders in a closed loop."""

    @property
    def name(self) -> str: ...

    def begin(self, variant: Variant, in_flight: int, pause: float) -> None:
        """Keeps `in_flight` orders in flight; places the next one `pause` seconds after one has ended."""

    def completed(self) -> int:
        """Orders of this loop that have ended."""

    def end(self, limit: float) -> Loop:
        """Places no more orders, and waits up to `limit` seconds for those in flight."""

    def counts(self) -> Counts:
        """Its current counters."""

    def pids(self) -> Mapping[str, int]:
        """Every process that takes part, by name."""
