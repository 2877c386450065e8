"""What operators do with a service's dead letters: look at them, send them back to their queue, or throw them away.

Reading a dead-letter queue takes its letters out of everybody's sight for a while (`broker.aws.dead_letters`). Two
operators, or a list and a redrive, share them between them: each waits `_PATIENCE` seconds for those in the other's
hand. What is not settled is given back at once; what a process held that died, comes back after HOLD seconds. So none
is lost. One can be redriven twice (sent, and not yet deleted), which is harmless by the inbox and the business keys.
Under an idempotency key each batch is recorded before it is settled: a repeat settles what was recorded and is still
there, and leaves alone what was settled and came back as another letter.
A request settles at most MOST letters, looks for SECONDS at most, and takes none that came back while it ran.

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
"""Letters that one request settles at most."""

SECONDS: Final = 10.0
"""That a request looks for letters at most, over all queues of its service."""

_PATIENCE: Final = 3.0
"""Seconds to wait for letters that are in another's hand."""

_SECRET: Final = frozenset({"payment_method", "address"})
"""Parts of messages that nobody is shown; `data` leaves them out, `reason` may quote them."""

_SHOWN: Final = frozenset({"items", "amount", "total", "reason", "facts", "payment_id", "shipment_id"})

Action = Literal["redriven", "discarded"]


@dataclass(frozen=True, slots=True)
class SettledLetter:
    """A letter that was redriven or discarded. `id` is the letter's; the rest is null where it could not be read."""

    id: str
    queue: str
    order_id: str | None
    message_id: str | None
    type: str | None


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter with what is in it. `envelope` is None where that can't be read; `handler` is the command that the
    service makes of it, None where it has none."""

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
        """Why it is here, without what its error may quote of somebody's data."""
        text = mask_text(self.dead.reason.splitlines()[0] if self.dead.reason else "")
        for secret in sorted(_secrets(self.envelope), key=len, reverse=True):
            text = text.replace(secret, "[removed]")
        return text[:500]

    @property
    def data(self) -> dict[str, Any]:
        """What may be shown of the message's content: no card, no address."""
        return {k: v for k, v in self.envelope.data.items() if k in _SHOWN} if self.envelope else {}

    @property
    def settled(self) -> SettledLetter:
        """What is kept of it."""
        name = self.envelope.name if self.envelope else None
        return SettledLetter(self.dead.id, self.dead.queue, self.order_id, self.message_id, name)


Wanted = Callable[[Letter], bool]
_Handle = Callable[[Sequence[Letter], DeadLetterQueue], Collection[str]]
"""What it returns is gone from the queue; the rest is given back."""


class DeadLetters:
    """The dead letters of one service: of all ways to it, and what the broker refused to take from it.

    Every method raises BrokerUnavailable and DatabaseUnavailable."""

    def __init__(self, application: Application, outbox: Outbox, queues: Sequence[DeadLetterQueue]) -> None:
        self._application = application
        self._outbox = outbox
        self._queues: Sequence[DeadLetterQueue] = (
            RefusedMessages(outbox.database, application.service),  # first: without its database a request ends at once
            *queues,
        )

    def depths(self) -> dict[str, int]:
        """About how many letters each queue holds."""
        return {queue.name: queue.depth() for queue in self._queues}

    def look(self, wanted: Wanted, limit: int) -> tuple[list[Letter], bool]:
        """Up to `limit` letters that are wanted, oldest first, and whether these are all that there are."""
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
        """Redrives or discards what is wanted: a batch at a time, recorded first. With `steps`, the result holds also
        what earlier requests with the same key recorded and is not there any more. Raises UnknownOutcome where it fails
        after the first batch."""
        earlier = [SettledLetter(**entry) for entry in (steps.recorded if steps else ())]
        known, messages = {one.id for one in earlier}, {one.message_id for one in earlier if one.message_id}
        settled = {one.id: one for one in earlier}
        done, began = 0, False

        def is_meant(letter: Letter) -> bool:
            # Recorded and still there: not settled yet. Another letter with its message: that was settled, and failed
            # again.
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
        """Shows `handle` each letter once. True if all were seen."""
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
                # The others are in somebody's hand, who may be waiting for ours.
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
        """Tells the orders' timelines, and lets what failed before fail as often again. Before it is done: an operator
        who finds it recorded and the letter still there does it once more."""
        with self._outbox.transaction() as unit:
            if action == "redriven":
                inbox.forgive(unit.connection, [letter.message_id for letter in letters if letter.message_id])
            if steps:
                steps.record(unit.connection, [asdict(letter.settled) for letter in letters])
            notes = [self._note(letter.envelope, action, by, why) for letter in letters if letter.envelope]
            unit.stage([note for note in notes if note])

    def _note(self, about: Envelope, action: Action, by: str, why: str) -> Envelope | None:
        if about.name == name_of(DeadLetterSettled):
            return None  # else notes on notes would never end
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
    """Every text within a secret part."""
    if isinstance(value, str) and secret:
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, secret=secret or key in _SECRET)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, secret=secret)
