"""What operators do with a service's dead letters: list them, redrive them to their queue, or discard them.

Reading a dead-letter queue hides its messages from others for a while (`broker.aws.dead_letters`). Two operators, or a
list and a redrive, share the messages between them: each waits `_PATIENCE` seconds for those that the other holds.
Messages that are not settled are returned at once; those of a process that died return after HOLD seconds. So none is
lost. A message can be redriven twice (sent, but not yet deleted), which the inbox and the business keys make harmless.
Under an idempotency key, each batch is recorded before it is settled: a repeated request settles what was recorded and
still exists, and ignores what was settled and failed again as a new dead letter.
A request settles at most MOST dead letters, reads for at most SECONDS, and takes none that return while it runs.

Source of the pattern: G. Hohpe and B. Woolf, "Dead Letter Channel", Enterprise Integration Patterns, 2003.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import structlog

from orderflow.broker import BATCH, DeadLetter, DeadLetterQueue
from orderflow.contracts import DeadLetterSettled, name_of
from orderflow.envelope import Envelope, compose, decode
from orderflow.errors import Rejected, Transient, UnknownOutcome
from orderflow.idempotency import Steps
from orderflow.messaging import inbox
from orderflow.messaging.application import Application
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.outbox_dead_letters import RefusedMessages
from orderflow.telemetry.logs import mask_text

log = structlog.get_logger(__name__)

MOST: Final = 1000
"""Maximum number of dead letters that one request settles."""

SECONDS: Final = 10.0
"""Maximum seconds that a request reads, over all queues of its service."""

_PATIENCE: Final = 3.0
"""Seconds to wait for dead letters that another reader holds."""

_SECRET: Final = frozenset({"payment_method", "address"})
"""Parts of messages that are never shown. `data` omits them, but `reason` may quote them."""

_SHOWN: Final = frozenset({"items", "amount", "total", "reason", "facts", "payment_id", "shipment_id"})

Action = Literal["redriven", "discarded"]


@dataclass(frozen=True, slots=True)
class SettledLetter:
    """A dead letter that was redriven or discarded. `id` is its own; what could not be read is null."""

    id: str
    queue: str
    order_id: str | None
    message_id: str | None
    type: str | None


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter with its content. `envelope` is None if that can't be read; `handler` is the command that the
    service makes of it, None if it makes none."""

    dead: DeadLetter
    envelope: Envelope | None
    handler: str | None

    @property
    def message_id(self) -> str | None:
        return self.envelope.id if self.envelope else None

    @property
    def order_id(self) -> str | None:
        return self.envelope.subject if self.envelope else None

    @property
    def reason(self) -> str:
        """Why it was dead-lettered, without personal data that the error may quote."""
        text = mask_text(self.dead.reason.splitlines()[0] if self.dead.reason else "")
        for secret in sorted(_secrets(self.envelope), key=len, reverse=True):
            text = text.replace(secret, "[removed]")
        return text[:500]

    @property
    def data(self) -> dict[str, Any]:
        """The part of the message's content that may be shown: no card, no address."""
        return {k: v for k, v in self.envelope.data.items() if k in _SHOWN} if self.envelope else {}

    @property
    def settled(self) -> SettledLetter:
        """What is recorded about it."""
        name = self.envelope.name if self.envelope else None
        return SettledLetter(self.dead.id, self.dead.queue, self.order_id, self.message_id, name)


Wanted = Callable[[Letter], bool]
_Handle = Callable[[Sequence[Letter], DeadLetterQueue], Collection[str]]
"""Returns the ids that have left the queue; the others are returned to it."""


class DeadLetters:
    """The dead letters of one service: from all its dead-letter queues, and those that the broker refused to accept.

    Every method raises BrokerUnavailable and DatabaseUnavailable."""

    def __init__(self, application: Application, outbox: Outbox, queues: Sequence[DeadLetterQueue]) -> None:
        self._application = application
        self._outbox = outbox
        self._queues: Sequence[DeadLetterQueue] = (
            RefusedMessages(outbox.database, application.service),  # first, so that a request fails fast without it
            *queues,
        )

    def depths(self) -> dict[str, int]:
        """About how many dead letters each queue holds."""
        return {queue.name: queue.depth() for queue in self._queues}

    def look(self, wanted: Wanted, limit: int) -> tuple[list[Letter], bool]:
        """Up to `limit` of the dead letters that are wanted, oldest first, and whether there are no others."""
        found: list[Letter] = []

        def keep(letters: Sequence[Letter], queue: DeadLetterQueue) -> Collection[str]:
            found.extend(filter(wanted, letters))
            return ()

        complete = self._walk(keep, enough=lambda: len(found) > limit)
        found.sort(key=lambda letter: letter.dead.at)
        return found[:limit], complete and len(found) <= limit

    def settle(
        self, action: Action, wanted: Wanted, by: str, why: str, steps: Steps | None = None
    ) -> Sequence[SettledLetter]:
        """Redrives or discards what is wanted: one batch at a time, each recorded first. With `steps`, the result also
        contains what earlier requests with the same key recorded and no longer exists. Raises UnknownOutcome if it
        fails after the first batch."""
        earlier = [SettledLetter(**entry) for entry in (steps.recorded if steps else ())]
        known, messages = {one.id for one in earlier}, {one.message_id for one in earlier if one.message_id}
        settled = {one.id: one for one in earlier}
        done, began = 0, False

        def is_meant(letter: Letter) -> bool:
            # Recorded and still in the queue: not settled yet. Another dead letter with the same message: it was
            # settled and has failed again.
            return letter.dead.id in known or (letter.message_id not in messages and wanted(letter))

        def act(letters: Sequence[Letter], queue: DeadLetterQueue) -> Collection[str]:
            nonlocal done, began
            chosen = [letter for letter in letters if is_meant(letter)][: MOST - done]
            if not chosen:
                return ()
            self._record(action, [letter for letter in chosen if letter.dead.id not in known], by, why, steps)
            began = True
            dead = [letter.dead for letter in chosen]
            if action == "redriven":
                gone = {letter.id for letter in queue.redrive(dead)}
            else:
                queue.discard(dead)
                gone = {letter.id for letter in dead}
            for letter in chosen:
                if letter.dead.id not in gone:
                    settled.pop(letter.dead.id, None)
                    continue
                done += 1
                settled[letter.dead.id] = letter.settled
                about = letter.envelope.about if letter.envelope else {}
                log.warning("dead letter settled", action=action, queue=queue.name, broker_id=letter.dead.id, by=by,
                            why=why, reason=letter.reason, **about)  # fmt: skip
            return gone

        try:
            self._walk(act, enough=lambda: done >= MOST)
        except Transient as error:
            if began:
                raise UnknownOutcome(f"failed after {done} letters: {error}") from error
            raise
        return list(settled.values())

    def _walk(self, handle: _Handle, enough: Callable[[], bool]) -> bool:
        """Calls `handle` once for each dead letter. True if all were seen."""
        ends = time.monotonic() + SECONDS
        whole = [self._walk_one(queue, ends, handle, enough) for queue in self._queues]
        return all(whole)

    def _walk_one(self, queue: DeadLetterQueue, ends: float, handle: _Handle, enough: Callable[[], bool]) -> bool:
        expected, seen = queue.depth(), set[str]()
        held: dict[str, DeadLetter] = {}
        patience = _PATIENCE
        try:
            while len(seen) < expected and not enough() and time.monotonic() < ends:
                began = time.monotonic()
                batch = queue.take(min(BATCH, expected - len(seen)))
                held |= {letter.id: letter for letter in batch}
                if fresh := [letter for letter in batch if letter.id not in seen]:
                    seen |= {letter.id for letter in fresh}
                    for gone in handle([self._open(letter) for letter in fresh], queue):
                        held.pop(gone, None)
                    continue
                # Another reader holds the others, and may be waiting for ours.
                queue.give_back(list(held.values()))
                held.clear()
                time.sleep(random.uniform(0.1, 0.4))
                patience -= time.monotonic() - began
                if patience < 0:
                    break
            return len(seen) >= expected
        finally:
            if held:
                queue.give_back(list(held.values()))

    def _open(self, dead: DeadLetter) -> Letter:
        envelope = handler = None
        with suppress(Rejected, Transient):
            envelope = decode(dead.body)
            asked = self._application.accept(envelope.message())
            handler = name_of(asked) if asked else None
        return Letter(dead, envelope, handler)

    def _record(self, action: Action, letters: Sequence[Letter], by: str, why: str, steps: Steps | None) -> None:
        """Adds to the orders' timelines, and resets failure counts. It runs before the action: an operator who finds it
        recorded while the dead letter still exists repeats the action."""
        with self._outbox.transaction() as unit:
            if action == "redriven":
                inbox.forgive(unit.connection, [letter.message_id for letter in letters if letter.message_id])
            if steps:
                steps.record(unit.connection, [asdict(letter.settled) for letter in letters])
            notes = [self._note(letter.envelope, action, by, why) for letter in letters if letter.envelope]
            unit.stage([note for note in notes if note])

    def _note(self, about: Envelope, action: Action, by: str, why: str) -> Envelope | None:
        if about.name == name_of(DeadLetterSettled):
            return None  # otherwise each note could cause another, without end
        return compose(
            DeadLetterSettled(action=action, letter=about.name[:100], by=by, why=why),
            source=self._application.service,
            order_id=about.subject,
            workflow=about.workflow,
            event_bus=about.eventbus,
            causation_id=about.id,
            traceparent=about.traceparent,
        )


def _secrets(envelope: Envelope | None) -> set[str]:
    if envelope is None:
        return set()
    found = set(_strings(envelope.data, secret=False))
    return {text for text in (*found, envelope.tasktoken or "") if len(text) > 1}


def _strings(value: Any, *, secret: bool) -> Iterator[str]:
    """Every text within a secret part of a message."""
    if isinstance(value, str) and secret:
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, secret=secret or key in _SECRET)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, secret=secret)
