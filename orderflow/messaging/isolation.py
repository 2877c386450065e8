"""Runs a batch so that an error, or a locked row, affects only the message that meets it.

A batch that fails is handled message by message. If it had to wait for a row, the orders that need a locked row are
determined: all others are handled at once, those behind a row in demand wait in line for a few seconds, and those
behind a row that one transaction holds for long are retried later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final

import psycopg
import structlog

from orderflow.database.holders import Locked
from orderflow.errors import Contended, DatabaseUnavailable
from orderflow.messaging.application import Incoming
from orderflow.messaging.guard import Retry, Verdict

log = structlog.get_logger(__name__)

Fate = Verdict | Future[Verdict]
"""A verdict, or a Future for a message that waits for a slow provider."""

Handle = Callable[[Sequence[Incoming], float | None], list[Fate]]
"""Handles a batch, and waits at most this many seconds for each row (None: as usual). If it raises, it had no
effect."""

_LOCKS_EXPECTED: Final = 5.0
"""Seconds after meeting a locked row for which batches check for locked rows first."""

_ALONE: Final = 0.1
"""Seconds that a single message waits for what no check can see: a row that is not committed yet."""

_IN_LINE: Final = (0.3, 0.6, 1.2, 2.4)
"""Seconds of the successive waits for rows in demand: after losing a place in the line, the next wait is longer."""


class Isolation:
    """The isolation of one service. `look` finds the orders of a batch that need a locked row; `failed` returns the
    verdict on a message that met an error. Safe to use from several threads."""

    def __init__(
        self,
        service: str,
        look: Callable[[Sequence[Incoming]], Locked],
        failed: Callable[[Incoming, Exception], Verdict],
    ) -> None:
        self._service = service
        self._look = look
        self._failed = failed
        self._locks_expected_until = 0.0

    def run(self, handle: Handle, batch: Sequence[Incoming]) -> list[Fate]:
        """The verdicts of `handle` for each message of a batch, in their order. Never raises."""
        if not batch:
            return []
        if time.monotonic() < self._locks_expected_until:
            return self._run_around_locks(handle, batch)
        try:
            return handle(batch, None)
        except Contended as error:
            log.info("rows are locked elsewhere", service=self._service, error=str(error), messages=len(batch))
            self._expect_locks()
            return self._run_around_locks(handle, batch)
        except Exception as error:  # noqa: BLE001 - any error counts against one message only
            return self._one_by_one(handle, batch, error)

    def _one_by_one(self, handle: Handle, batch: Sequence[Incoming], error: Exception) -> list[Fate]:
        """After a batch failed: handles each message alone, so that the error affects only one."""
        if isinstance(error, DatabaseUnavailable) and not isinstance(error, Contended):
            return [Retry(str(error)) for _ in batch]  # handled alone, each would only wait for the database again
        if len(batch) == 1 and not isinstance(error, psycopg.errors.UniqueViolation):
            return [self._failed(batch[0], error)]
        if len(batch) > 1:
            log.warning("a batch failed; handling it one by one", service=self._service, error=repr(error))
        # A single message is retried too after a race with its duplicate, which has committed by now.
        lock_timeout = _ALONE if isinstance(error, Contended) else None
        return [fate for incoming in batch for fate in self._alone(handle, incoming, lock_timeout)]

    def _alone(self, handle: Handle, incoming: Incoming, lock_timeout: float | None) -> list[Fate]:
        for last in (False, True):
            try:
                return handle([incoming], lock_timeout)
            except Exception as error:  # noqa: BLE001 - as above
                if _twin_was_first(error):
                    if last:  # recording a provider's answer doesn't check the inbox; the next delivery does
                        return [Retry(str(error))]
                elif last or not isinstance(error, psycopg.errors.UniqueViolation):
                    return [self._failed(incoming, error)]
        raise AssertionError("unreachable")

    def _run_around_locks(self, handle: Handle, batch: Sequence[Incoming]) -> list[Fate]:
        try:
            held, in_demand = self._look(batch)
        except DatabaseUnavailable as error:  # or a lock on the whole table
            return [Retry(str(error), soon=isinstance(error, Contended)) for _ in batch]
        except Exception as error:  # noqa: BLE001 - as above
            return self._one_by_one(handle, batch, error)
        if held or in_demand:
            self._expect_locks()
        free = [m for m in batch if m.order_id not in held | in_demand]
        waiting = [m for m in batch if m.order_id in in_demand]
        fates: dict[int, Fate] = {id(m): _held(m) for m in batch if m.order_id in held}
        try:
            handled = handle(free, None) if free else []
        except Exception as error:  # noqa: BLE001 - as above
            handled = self._one_by_one(handle, free, error)
        fates |= zip(map(id, free), handled, strict=True)
        fates |= zip(map(id, waiting), self._in_line(handle, waiting), strict=True)
        return [fates[id(m)] for m in batch]

    def _in_line(self, handle: Handle, batch: Sequence[Incoming]) -> list[Fate]:
        fates: dict[int, Fate] = {}
        waiting = batch
        for seconds in _IN_LINE:
            if not waiting:
                break
            try:
                fates |= zip(map(id, waiting), handle(waiting, seconds), strict=True)
                waiting = []
            except Contended:
                try:
                    held = self._look(waiting).held
                except Exception:  # noqa: BLE001 - all of them are retried later
                    break
                fates |= {id(m): _held(m) for m in waiting if m.order_id in held}
                waiting = [m for m in waiting if m.order_id not in held]
            except Exception as error:  # noqa: BLE001 - as above
                fates |= zip(map(id, waiting), self._one_by_one(handle, waiting, error), strict=True)
                waiting = []
        self._expect_locks()
        return [fates.get(id(m)) or _held(m) for m in batch]

    def _expect_locks(self) -> None:
        self._locks_expected_until = time.monotonic() + _LOCKS_EXPECTED


def _twin_was_first(error: Exception) -> bool:
    """Whether another process has claimed the message in the inbox, which is not a failure."""
    table = error.diag.table_name if isinstance(error, psycopg.errors.UniqueViolation) else None
    return (table or "").startswith("inbox")


def _held(incoming: Incoming) -> Retry:
    return Retry(f"a row that order {incoming.order_id} needs is locked elsewhere", soon=True)
