"""A bounded load: a number of orders at a rate, over HTTP on loopback, each retried under its key until accepted."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
import pytest

from orderflow import clock
from orderflow.contracts import EventBus, Workflow
from tests.support.bodies import order_body
from tests.support.system import KINDS, System, kind_id

MIX: Final[Sequence[Mapping[str, Any]]] = (
    {}, {}, {}, {},
    {"items": [{"sku": "MUG-1", "quantity": 1}, {"sku": "BOOK-1", "quantity": 1}]},
    {"payment_method": "pm_card_declined"},
    {"postal_code": "00000"},
    {"sku": "SOLDOUT-1"},
    {"payment_method": "pm_card_timeout"},
    {"postal_code": "99999"},
)  # fmt: skip
"""What is ordered, in turn: most orders succeed, and every way to fail is included."""

_STATE_MACHINES: Final = 2.0
"""The most orders per second if all use state machines, while services are killed and restarted: that leaves LocalStack
a third of two cores, and its executions cost more the more are open. With 4 per second it made no progress."""

_THREADS: Final = 8
_PAUSE: Final = 0.2


def bearable(rate: float, kinds: Sequence[tuple[Workflow, EventBus]]) -> float:
    """The rate in orders per second, or the rate that the emulator can bear if it is slow at all of these kinds."""
    by_machine = all(workflow is Workflow.STEP_FUNCTIONS for workflow, _ in kinds)
    return min(rate, _STATE_MACHINES) if by_machine else rate


def mixes(workflow: Workflow | None = None) -> list[Any]:
    """Parameters for a fault test. Quick: every workflow (or that one) and bus in one run. Full: a run for each."""
    kinds = tuple(kind for kind in KINDS if workflow in (None, kind[0]))
    return [
        pytest.param(kinds, id=workflow.value if workflow else "all"),
        *(pytest.param((kind,), id=kind_id(kind), marks=pytest.mark.full) for kind in kinds),
    ]


def sizes(small: Any, full: Any) -> list[Any]:
    """Parameters of a fault test, each with one or several values: `make test` uses the small size, and the full run
    uses the other one instead."""

    def one(size: Any, mark: pytest.MarkDecorator) -> Any:
        values = size if isinstance(size, tuple) else (size,)
        return pytest.param(*values, id=str(values[0]), marks=mark)

    return [one(small, pytest.mark.small), one(full, pytest.mark.full)]


def each_kind() -> list[Any]:
    """Parameters for a test in one process. Quick: every workflow over SNS. Full: over both buses."""
    return [
        pytest.param(kind, id=kind_id(kind), marks=() if kind[1] is EventBus.SNS else pytest.mark.full)
        for kind in KINDS
    ]


def quick(cases: Sequence[Any], *chosen: Any) -> list[Any]:
    """Parameters of which only the chosen ones run in `make test`."""
    assert set(chosen) <= set(cases)
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if case in chosen else pytest.mark.full)
        for case in cases
    ]


class Load:
    """Places orders of `kinds` in turn, at most `rate` per second, until `total` have been accepted or until `stop`.

    A request that fails or is answered 5xx is repeated under the same key, as a careful caller does. With
    `default_kind`, orders name no workflow. If the emulator is slow at all the kinds, the rate is lowered to what it
    can bear."""

    def __init__(
        self,
        system: System,
        kinds: Sequence[tuple[Workflow, EventBus]],
        *,
        rate: float,
        total: int,
        seed: int = 0,
        mix: Sequence[Mapping[str, Any]] = MIX,
        default_kind: bool = False,
    ) -> None:
        self._system = system
        self._kinds = kinds
        self._mix = mix
        self._default_kind = default_kind
        self._random = random.Random(seed)
        self.rate = bearable(rate, kinds)
        self._total = total
        self._began = time.monotonic()
        self._next = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_THREADS)]
        self.acknowledged: dict[str, str] = {}
        """Order id by key."""
        self.kind_of: dict[str, tuple[Workflow, EventBus]] = {}
        """Workflow and bus by order id, as the answer said."""
        self.answers: Counter[int | str] = Counter()
        """Answers by status, failures by the exception's name."""
        self.slowest_refusal = 0.0
        """Seconds of the slowest 503."""

    def __enter__(self) -> Load:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)

    def finish(self, seconds: float = 300) -> list[str]:
        """Waits until all orders have been accepted, and returns their ids."""
        self.until_taken(self._total, seconds)
        ids = list(self.acknowledged.values())
        assert len(set(ids)) == len(ids), "two keys got one order"
        return ids

    def end(self) -> list[str]:
        """Begins no more orders, and returns the ids once all that were begun have been accepted."""
        with self._lock:
            self._total = min(self._total, self._next)
        return self.finish()

    def until_taken(self, number: int, seconds: float = 300) -> None:
        """Waits until this many orders have been accepted."""
        ends = time.monotonic() + seconds
        while len(self.acknowledged) < number:
            assert time.monotonic() < ends, f"{len(self.acknowledged)} of {number} accepted: {self.answers}"
            time.sleep(0.05)

    @property
    def done(self) -> bool:
        return len(self.acknowledged) >= self._total

    def _run(self) -> None:
        with httpx.Client(timeout=10, trust_env=False) as http:
            while not self._stopping.is_set():
                with self._lock:
                    number, self._next = self._next, self._next + 1
                if number >= self._total:
                    return
                self._stopping.wait(max(0.0, self._began + number / self.rate - time.monotonic()))
                self._place(http, number)

    def _place(self, http: httpx.Client, number: int) -> None:
        workflow, bus = self._kinds[number % len(self._kinds)]
        body = order_body(**self._mix[(number // len(self._kinds)) % len(self._mix)])
        if not self._default_kind:
            body |= {"workflow": workflow.value, "event_bus": bus.value}
        key = clock.new_id()
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                answer = http.post(self._system.url("order", "/orders"), json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError as error:
                outcome: int | str = type(error).__name__
            else:
                outcome = answer.status_code
                if answer.status_code == 503:
                    self.slowest_refusal = max(self.slowest_refusal, time.monotonic() - began)
            with self._lock:
                self.answers[outcome] += 1
            if outcome == 202:
                taken = answer.json()
                with self._lock:
                    self.kind_of[taken["id"]] = (Workflow(taken["workflow"]), EventBus(taken["event_bus"]))
                    self.acknowledged[key] = taken["id"]
                return
            assert not isinstance(outcome, int) or outcome >= 500, answer.text
            self._stopping.wait(_PAUSE)
