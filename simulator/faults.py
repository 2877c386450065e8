"""Faults that can be set for a simulated provider. All processes see them within a second."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from typing import Final

from orderflow.errors import UnknownOutcome
from simulator.ledger import Ledger

_FRESH: Final = 1.0
"""Seconds for which the faults are cached after they were read."""


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of a provider.

    `error_rate`: the share of calls that end without an answer, half of them after they took effect. `latency`: seconds
    that each call takes longer; above the caller's timeout, the answer comes too late. `outage`: no call is answered.
    """

    error_rate: float = 0.0
    latency: float = 0.0
    outage: bool = False


class FaultBox:
    """The faults of one provider: stored in the providers' database, and cached here."""

    def __init__(self, ledger: Ledger, provider: str, timeout: float) -> None:
        self._ledger = ledger
        self._provider = provider
        self._timeout = timeout
        self._known = Faults()
        self._read_at = -_FRESH
        self._reading = threading.Lock()
        self.random = random.Random()

    def get(self, *, fresh: bool = False) -> Faults:
        """The faults that are set. Raises UnknownOutcome."""
        if fresh or (time.monotonic() - self._read_at >= _FRESH and self._reading.acquire(blocking=False)):
            try:
                began, row = self._read_at, self._ledger.faults(self._provider)
                if self._read_at == began:  # else they have been set meanwhile
                    self._known, self._read_at = (Faults(*row) if row else Faults()), time.monotonic()
            finally:
                if not fresh:
                    self._reading.release()
        return self._known

    def set(self, faults: Faults) -> None:
        """Sets them for all processes. Raises UnknownOutcome."""
        self._ledger.set_faults(self._provider, faults.error_rate, faults.latency, outage=faults.outage)
        self._known, self._read_at = faults, time.monotonic()

    def meet(self, slower: float = 0.0) -> bool:
        """Applies the faults to a call before it takes effect. `slower` is the time in seconds that the call takes by
        itself. Returns whether the call's answer is lost. Raises UnknownOutcome if the call has no effect either."""
        faults = self.get()
        if faults.outage:
            raise UnknownOutcome("the provider is unavailable")
        latency = faults.latency + slower
        if latency:
            time.sleep(min(latency, self._timeout))
        if faults.error_rate and self.random.random() < faults.error_rate:
            if self.random.random() < 0.5:
                raise UnknownOutcome("the provider failed before the call took effect")
            return True
        return latency > self._timeout
