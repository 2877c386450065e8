"""From a batch of envelopes to its effects: one transaction with the inbox, the business rows and the outbox.

A batch that fails is retried message by message, so that a bad message affects no other (`messaging.isolation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from orderflow import metrics
from orderflow.contracts import MESSAGES
from orderflow.database.holders import Holders
from orderflow.envelope import Envelope
from orderflow.messaging import inbox, tracing
from orderflow.messaging.application import Application, Incoming, Locks
from orderflow.messaging.guard import Done, Guard, Verdict
from orderflow.messaging.isolation import Fate, Isolation
from orderflow.messaging.outbox import Outbox, UnitOfWork
from orderflow.routing import hears


class Processor:
    """Handles batches for one application. Safe to use from several threads."""

    def __init__(self, application: Application, outbox: Outbox, guard: Guard) -> None:
        self.guard = guard
        self._app = application
        self._outbox = outbox
        self._locks = application if isinstance(application, Locks) else None
        holders = Holders(outbox.database)
        self._isolation = Isolation(
            application.service, lambda batch: holders.look(application.needs(outbox.database, batch)), self._failed
        )

    def process(self, envelopes: Sequence[Envelope]) -> list[Fate]:
        """A verdict for each envelope, in their order; a Future for one that waits for a slow provider."""
        verdicts: dict[int, Fate] = {}
        todo: list[tuple[int, Incoming]] = []
        handlings = tracing.begin(self._app.service, envelopes)
        for i, envelope in enumerate(envelopes):
            try:
                message, asked = None, None
                if self._concerned(envelope):
                    message = envelope.message()
                    asked = self._app.accept(message)
            except Exception as error:  # noqa: BLE001 - perhaps a bug in a reaction: it counts against its message
                verdicts[i] = self.guard.verdict(error, envelope.id, envelope.about, handlings[i])
                continue
            if asked is None:
                metrics.unheard[self._app.service, envelope.name] += 1
                verdicts[i] = Done()
            else:
                todo.append((i, Incoming(envelope, asked, getattr(message, "order", None), handling=handlings[i])))
        for wave in self._waves(todo):
            fates = self._isolation.run(self._attempt_batch, [incoming for _, incoming in wave])
            verdicts |= {i: fate for (i, _), fate in zip(wave, fates, strict=True)}
        tracing.end(handlings, verdicts)
        return [verdicts[i] for i in range(len(envelopes))]

    def _concerned(self, envelope: Envelope) -> bool:
        # Checked before its data and version: filters let unknown types through.
        model = MESSAGES.get(envelope.name)
        return model is None or hears(self._app.service, envelope.workflow, model)

    def _waves(self, todo: list[tuple[int, Incoming]]) -> Iterator[list[tuple[int, Incoming]]]:
        # A set-based statement can change each order only once; an order's second message waits for the next wave.
        while todo:
            if self._app.whole_orders:
                yield todo
                return
            seen: set[str] = set()
            wave = [(i, m) for i, m in todo if m.order_id not in seen and not seen.add(m.order_id)]  # type: ignore[func-returns-value]
            chosen = {i for i, _ in wave}
            todo = [(i, m) for i, m in todo if i not in chosen]
            yield wave

    def _failed(self, incoming: Incoming, error: Exception) -> Verdict:
        return self.guard.verdict(error, incoming.envelope.id, incoming.envelope.about, incoming.handling)

    def _attempt_batch(self, batch: Sequence[Incoming], lock_timeout: float | None) -> list[Fate]:
        """Handles a batch with at most one message per order. If it raises, it had no effect."""
        return self._commit(batch, lock_timeout)

    def _commit(self, batch: Sequence[Incoming], lock_timeout: float | None, *, checked: bool = False) -> list[Fate]:
        """Handles a batch in one transaction. `checked`: the inbox has been checked already."""
        service = self._app.service
        with tracing.within([m.handling for m in batch]):
            with self._outbox.transaction(lock_timeout=lock_timeout) as unit:
                todo = list(enumerate(batch))
                if not checked:
                    # Before the inbox: once a row is free, the inbox shows what another process has just handled.
                    unit.locked = self._locks.lock(unit.connection, batch) if self._locks else None
                    todo = self._not_yet_done(unit, todo)
                verdicts: list[Fate] = [Done() for _ in batch]
                claimed: list[tuple[str, str]] = []
                failed: list[tuple[int, Exception]] = []
                replies = self._app.handle(unit, [m for _, m in todo]) if todo else ()
                for (i, incoming), reply in zip(todo, replies, strict=True):
                    if isinstance(reply, Exception):
                        failed.append((i, reply))
                    else:
                        caused = [m if isinstance(m, Envelope) else incoming.answer(m, service) for m in reply]
                        unit.stage(caused)
                        outcome = ",".join(e.name for e in caused)
                        if incoming.handling:
                            incoming.handling.outcome(outcome)
                        if not incoming.known:
                            claimed.append((incoming.envelope.id, outcome))
                if claimed:
                    inbox.claim(unit.connection, service, claimed)
            for i, error in failed:
                verdicts[i] = self._failed(batch[i], error)
        return verdicts

    def _not_yet_done(self, unit: UnitOfWork, todo: list[tuple[int, Incoming]]) -> list[tuple[int, Incoming]]:
        """The new messages, and the resent ones (marked as known). The others have had their effect and their
        answer."""
        known = inbox.known(unit.connection, self._app.service, [m.envelope.id for _, m in todo])
        return [
            (i, replace(m, known=True) if m.envelope.id in known else m)
            for i, m in todo
            if m.envelope.id not in known or m.envelope.resend
        ]
