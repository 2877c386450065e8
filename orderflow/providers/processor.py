"""From a batch of envelopes to its effects if a provider is called, which no transaction can include.

Three phases: commit the intents, call, record the outcomes. Late answers of a slow provider are recorded one by one as
they arrive, so that they delay neither their batch nor the consumer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import Any, Final, Protocol

from orderflow.messaging import tracing
from orderflow.messaging.application import Application, Incoming
from orderflow.messaging.guard import Done, Guard, Verdict
from orderflow.messaging.isolation import Fate
from orderflow.messaging.outbox import Outbox, UnitOfWork
from orderflow.messaging.processor import Processor

_LATE: Final = 0.25
"""Seconds that a batch waits for its provider calls; the slower ones are recorded later, each on its own."""


class CallsProvider(Application, Protocol):
    """An application that calls a provider, outside any transaction."""

    def begin(self, unit: UnitOfWork, batch: Sequence[Incoming]) -> Sequence[Callable[[], Any] | None]:
        """Phase 1: commits the intents. Returns the calls to make, None for a message that needs none."""

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Phase 2: runs a call in the bounded pool. Its result goes to `handle` as `Incoming.result`."""


class ProviderProcessor(Processor):
    """See `Processor`."""

    def __init__(self, application: CallsProvider, outbox: Outbox, guard: Guard) -> None:
        super().__init__(application, outbox, guard)
        self._calls = application

    def _attempt_batch(self, batch: Sequence[Incoming], lock_timeout: float | None) -> list[Fate]:
        verdicts: list[Fate] = [Done() for _ in batch]
        with (
            tracing.within([m.handling for m in batch]),
            self._outbox.transaction(lock_timeout=lock_timeout) as unit,
        ):
            todo = self._not_yet_done(unit, list(enumerate(batch)))
            wanted = self._calls.begin(unit, [m for _, m in todo]) if todo else ()
        running = [self._submit(call) if call else None for call in wanted]
        late = wait([f for f in running if f], timeout=_LATE).not_done
        ready: list[tuple[int, Incoming]] = []
        for (i, incoming), future in zip(todo, running, strict=True):
            if future is None:
                ready.append((i, incoming))
            elif future in late:
                verdicts[i] = self._record_when_done(incoming, future)
            else:
                try:
                    ready.append((i, replace(incoming, result=future.result())))
                except Exception as error:  # noqa: BLE001 - a bug around the call counts against its message
                    verdicts[i] = self._failed(incoming, error)
        for (i, _), verdict in zip(ready, self._isolation.run(self._record, [m for _, m in ready]), strict=True):
            verdicts[i] = verdict
        return verdicts

    def _submit(self, call: Callable[[], Any]) -> Future[Any]:
        """The running call; if it could not be started, a call that has failed with that error."""
        try:
            return self._calls.submit(call)
        except Exception as error:  # noqa: BLE001 - counts against its message, after the others have been started
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def _record(self, batch: Sequence[Incoming], lock_timeout: float | None) -> list[Fate]:
        """Phase 3."""
        return self._commit(batch, lock_timeout, checked=True)

    def _record_when_done(self, incoming: Incoming, call: Future[Any]) -> Future[Verdict]:
        verdict: Future[Verdict] = Future()

        def record(done: Future[Any]) -> None:
            # Runs in the pool's thread, so a slow provider never delays the consumer.
            try:
                [fate] = self._isolation.run(self._record, [replace(incoming, result=done.result())])
                assert not isinstance(fate, Future)
            except Exception as error:  # noqa: BLE001 - a bug around the call counts against its message
                fate = self._failed(incoming, error)
            verdict.set_result(fate)

        call.add_done_callback(record)
        return verdict
