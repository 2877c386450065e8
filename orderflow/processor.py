"""From a batch of envelopes to its effects: one transaction with the inbox, the business rows and the outbox.

A batch that fails is tried again message by message, so that one bad message spoils no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import psycopg
import structlog

from orderflow import inbox, measures, telemetry
from orderflow.contracts import MESSAGES, Message, OrderSnapshot
from orderflow.envelope import Envelope, compose
from orderflow.errors import Rejected, Transient
from orderflow.outbox import Outbox, Unit
from orderflow.routing import hears

log = structlog.get_logger(__name__)

_LATE: Final = 0.25
"""Seconds that a batch waits for its provider calls; the slower ones are recorded later, each on its own."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message to handle: what it asks (after the reaction), and the envelope that asked.

    `forward` is the order's snapshot that choreography carries on; `known` marks one that had its effect before and
    is asked again; `result` is what a provider call gave; `step` is its place in the trace."""

    envelope: Envelope
    message: Message
    forward: OrderSnapshot | None = None
    known: bool = False
    result: Any = None
    step: telemetry.Step | None = None

    @property
    def order_id(self) -> str:
        return self.envelope.subject

    @property
    def traceparent(self) -> str | None:
        """The trace context for what it causes."""
        return self.step.traceparent if self.step else self.envelope.traceparent

    def answer(self, message: Message, source: str, message_id: str | None = None) -> Envelope:
        """`message` in an envelope that is addressed by the asking one: its workflow, its token, its causation."""
        asked = self.envelope
        if self.forward is not None and "order" in type(message).model_fields:
            message = message.model_copy(update={"order": self.forward})
        return compose(
            message,
            source=source,
            order_id=asked.subject,
            workflow=asked.workflow,
            event_bus=asked.eventbus,
            message_id=message_id,
            causation_id=asked.id,
            traceparent=self.traceparent,
            resend=asked.resend,
            task_token=asked.tasktoken,
        )


class Done:
    """Handled: acknowledge."""


@dataclass(frozen=True, slots=True)
class Later:
    """Not now: let it become visible again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Park:
    """Never: move it to the dead-letter queue."""

    reason: str


Verdict = Done | Later | Park
Reply = Sequence[Message | Envelope] | Exception
"""What a message caused (put into envelopes here, unless it is in one); or why it can't be handled, as if that had been
raised for this message alone: then it has had no effect."""


class Application(Protocol):
    """What a service does with messages. `accept` turns an event into the service's own command (its reaction);
    None means that it has nothing to do. `whole_orders`: `handle` can take several messages of one order at once."""

    service: str
    whole_orders: bool

    def accept(self, message: Message) -> Message | None: ...

    def handle(self, unit: Unit, batch: Sequence[Incoming]) -> Sequence[Reply]: ...


class ProviderCalls(Protocol):
    """The part of an application that calls a provider, outside any transaction."""

    def begin(self, unit: Unit, batch: Sequence[Incoming]) -> Sequence[Callable[[], Any] | None]:
        """Phase 1: commits the intents; returns the calls to make, None where none is needed."""

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Phase 2: runs a call in the bounded pool. Its result goes to `handle` as `Incoming.result`."""


class Processor:
    """Handles batches for one application. Safe to use from several threads."""

    def __init__(
        self, application: Application, outbox: Outbox, count_failure: Callable[[str, str], int], *, parked_at: int
    ) -> None:
        self._app = application
        self._outbox = outbox
        self._count_failure = count_failure
        self._parked_at = parked_at
        self._calls: ProviderCalls | None = application if hasattr(application, "begin") else None  # type: ignore[assignment]

    def process(self, envelopes: Sequence[Envelope]) -> list[Verdict | Future[Verdict]]:
        """A verdict for each envelope, in their order; a Future for one that waits for a slow provider."""
        verdicts: dict[int, Verdict | Future[Verdict]] = {}
        todo: list[tuple[int, Incoming]] = []
        steps = telemetry.steps(self._app.service, envelopes)
        for i, envelope in enumerate(envelopes):
            try:
                message, asked = None, None
                if self._concerned(envelope):
                    message = envelope.message()
                    asked = self._app.accept(message)
            except Rejected as error:
                verdicts[i] = Park(str(error))
            except Transient as error:
                verdicts[i] = Later(str(error))
            else:
                if asked is None:
                    measures.unheard[self._app.service, envelope.name] += 1
                    verdicts[i] = Done()
                else:
                    todo.append((i, Incoming(envelope, asked, getattr(message, "order", None), step=steps[i])))
        for wave in self._waves(todo):
            for (i, _), verdict in zip(wave, self._attempt([incoming for _, incoming in wave]), strict=True):
                verdicts[i] = verdict
        telemetry.end_steps(steps, verdicts)
        return [verdicts[i] for i in range(len(envelopes))]

    def _concerned(self, envelope: Envelope) -> bool:
        # Before its data or version is looked at: filters let through what they don't know.
        model = MESSAGES.get(envelope.name)
        return model is None or hears(self._app.service, envelope.workflow, model)

    def _waves(self, todo: list[tuple[int, Incoming]]) -> Iterator[list[tuple[int, Incoming]]]:
        # Statements over a set can touch each order once; what comes second for an order waits for the next wave.
        while todo:
            if self._app.whole_orders:
                yield todo
                return
            seen: set[str] = set()
            wave = [(i, m) for i, m in todo if m.order_id not in seen and not seen.add(m.order_id)]  # type: ignore[func-returns-value]
            chosen = {i for i, _ in wave}
            todo = [(i, m) for i, m in todo if i not in chosen]
            yield wave

    def _attempt(self, batch: Sequence[Incoming]) -> list[Verdict | Future[Verdict]]:
        try:
            return self._with_calls(batch) if self._calls else list(self._commit(batch))
        except (Transient, psycopg.errors.UniqueViolation) as error:
            # A unique violation is the race with a twin of the message: it is known when it comes again.
            return [Later(str(error)) for _ in batch]
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its message's failure
            if len(batch) > 1:
                log.warning("a batch failed; handling it one by one", service=self._app.service, error=repr(error))
                return [verdict for incoming in batch for verdict in self._attempt([incoming])]
            return [self._failed(batch[0], error)]

    def _failed(self, incoming: Incoming, error: Exception) -> Verdict:
        envelope = incoming.envelope
        if isinstance(error, Rejected):
            return Park(str(error))
        if isinstance(error, Transient):
            return Later(str(error))
        try:
            times = self._count_failure(envelope.id, repr(error))
        except Transient as away:
            return Later(str(away))
        if incoming.step:
            incoming.step.failed(error)
        log.error("handler failed", service=self._app.service, times=times, exc_info=error, **envelope.about)
        if times >= self._parked_at:
            return Park(f"handler failed {times} times; last: {error!r}")
        return Later(repr(error))

    def _commit(self, batch: Sequence[Incoming], *, checked: bool = False) -> list[Verdict]:
        """Handles a batch in one transaction. `checked`: the inbox has been asked already."""
        service = self._app.service
        with telemetry.within([m.step for m in batch]):
            with self._outbox.transaction() as unit:
                todo = list(enumerate(batch))
                if not checked:
                    todo = self._not_yet_done(unit, todo)
                verdicts: list[Verdict] = [Done() for _ in batch]
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
                        if incoming.step:
                            incoming.step.outcome(outcome)
                        if not incoming.known:
                            claimed.append((incoming.envelope.id, outcome))
                if claimed:
                    inbox.claim(unit.connection, service, claimed)
            for i, error in failed:
                verdicts[i] = self._failed(batch[i], error)
        return verdicts

    def _not_yet_done(self, unit: Unit, todo: list[tuple[int, Incoming]]) -> list[tuple[int, Incoming]]:
        """What is new, and (marked as known) what is asked again. The rest has had its effect and its answer."""
        known = inbox.known(unit.connection, self._app.service, [m.envelope.id for _, m in todo])
        return [
            (i, replace(m, known=True) if m.envelope.id in known else m)
            for i, m in todo
            if m.envelope.id not in known or m.envelope.resend
        ]

    def _with_calls(self, batch: Sequence[Incoming]) -> list[Verdict | Future[Verdict]]:
        """Three phases: commit the intents; call; record what came of it."""
        calls = self._calls
        assert calls is not None
        with telemetry.within([m.step for m in batch]), self._outbox.transaction() as unit:
            todo = self._not_yet_done(unit, list(enumerate(batch)))
            wanted = calls.begin(unit, [m for _, m in todo]) if todo else ()
        running = [calls.submit(call) if call else None for call in wanted]
        late = wait([f for f in running if f], timeout=_LATE).not_done
        verdicts: list[Verdict | Future[Verdict]] = [Done() for _ in batch]
        ready: list[tuple[int, Incoming]] = []
        for (i, incoming), future in zip(todo, running, strict=True):
            if future is None:
                ready.append((i, incoming))
            elif future in late:
                verdicts[i] = self._record_when_done(incoming, future)
            else:
                ready.append((i, replace(incoming, result=future.result())))
        for (i, _), verdict in zip(ready, self._record([m for _, m in ready]), strict=True):
            verdicts[i] = verdict
        return verdicts

    def _record(self, batch: Sequence[Incoming]) -> list[Verdict]:
        """Phase 3, one by one if the batch fails: what the providers answered must not be lost with it."""
        try:
            return self._commit(batch, checked=True) if batch else []
        except Transient as error:
            return [Later(str(error)) for _ in batch]
        except Exception as error:  # noqa: BLE001 - whatever it is, each message gets its verdict
            if len(batch) > 1:
                return [verdict for incoming in batch for verdict in self._record([incoming])]
            if isinstance(error, psycopg.errors.UniqueViolation):
                return [Later(str(error))]
            return [self._failed(batch[0], error)]

    def _record_when_done(self, incoming: Incoming, call: Future[Any]) -> Future[Verdict]:
        verdict: Future[Verdict] = Future()

        def record(done: Future[Any]) -> None:
            # Runs in the pool's thread, so a slow provider never holds up the consumer.
            try:
                [result] = self._record([replace(incoming, result=done.result())])
            except Exception as error:
                log.exception("a late answer could not be recorded", service=self._app.service)
                result = Later(repr(error))
            verdict.set_result(result)

        call.add_done_callback(record)
        return verdict
