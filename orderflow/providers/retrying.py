"""Retries the calls that wait for a provider: from the database, at a limited rate, beside new calls.

Commands and compensations have separate limits: an hour's compensations must not delay orders whose deadline is near.
Together they use at most half of the pool that all calls share, so a backlog never delays new orders.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import Final

import structlog

from orderflow import failpoints
from orderflow.errors import Transient
from orderflow.messaging.outbox import Outbox
from orderflow.providers.attempts import Call, Called
from orderflow.providers.calls import ProviderApplication

log = structlog.get_logger(__name__)

_TICK: Final = 1.0
"""Seconds between checks while nothing is due."""

_LATE: Final = 0.25
"""Seconds that a batch waits for its calls; slower ones are recorded later, each on its own."""


class Retrying:
    """A thread that runs `run`. Any number of processes share the work."""

    name = "provider-retries"

    def __init__(self, application: ProviderApplication, outbox: Outbox) -> None:
        self._app = application
        self._outbox = outbox
        self._places = max(1, application.policy.concurrency // 4)
        self._in_flight: Counter[bool] = Counter()
        """The number of calls, by whether they are compensations."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def run(self) -> None:
        """Works until `stop`."""
        while not self._stopping.is_set():
            try:
                idle = not self.step()
            except Transient as error:
                log.warning("could not claim waiting calls; retrying", error=str(error))
                idle = True
            except Exception:
                # The thread must continue after any error: otherwise nobody would make the waiting calls.
                log.exception("waiting calls failed; retrying")
                idle = True
            if idle:
                self._stopping.wait(_TICK)

    def stop(self) -> None:
        """Begins no further calls."""
        self._stopping.set()

    def step(self) -> int:
        """Makes the calls that are due, as many as fit. Returns their number. Raises DatabaseUnavailable."""
        room = {undo: self._app.breaker.room(self._places - self._in_flight[undo]) for undo in (False, True)}
        if not any(room.values()):
            return 0
        began, lease = time.monotonic(), self._app.policy.whole_lease
        with self._outbox.transaction() as unit:
            failpoints.reached("retry.before")
            found = [self._app.waits.due(unit.connection, n, lease, undo=undo) for undo, n in room.items() if n]
            told = [order_id for _, settled in found for order_id in settled]
            if told:
                self._app.answer(unit, told)
        calls = [Call(self._app, taken, began) for due, _ in found for taken in due]
        if not calls:
            return len(told)
        failpoints.reached("retry.after")
        running: list[Future[Called]] = [self._app.submit(call) for call in calls]
        with self._lock:
            self._in_flight.update(call.taken.undo for call in calls)
        done, late = wait(running, timeout=_LATE)
        self._record([future.result() for future in running if future in done])
        for future in late:
            # In the pool's thread, so that a slow call delays no other.
            future.add_done_callback(lambda ended: self._record([ended.result()]))
        return len(calls) + len(told)

    def _record(self, called: Sequence[Called]) -> None:
        """Records answers; one by one, if all together fail. A call whose answer can't be recorded is retried under its
        key when its lease ends."""
        try:
            if called:
                with self._outbox.transaction() as unit:
                    self._app.record(unit, called)
        except Transient as error:
            log.warning("answers could not be recorded; the calls are retried", calls=len(called), error=str(error))
        except Exception:
            if len(called) > 1:
                for one in called:
                    self._record([one])
                return
            log.exception("an answer could not be recorded; the call is retried", order_id=called[0].taken.order_id)
        self._finished(called)

    def _finished(self, called: Sequence[Called]) -> None:
        with self._lock:
            for one in called:
                self._in_flight[one.taken.undo] -= 1
