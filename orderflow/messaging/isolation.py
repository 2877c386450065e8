"""Runs a batch so that what one message meets is its own: an error of any class, or a row that somebody holds.

A batch that fails is handled message by message. Where it had to wait for a row, it is found out which of its orders
need one that is locked: the others are handled at once, those behind a row in demand wait in line for a few seconds,
and those behind a row that one transaction keeps are put off, for as long as it does.
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
"""A verdict, or a Future for what waits for a slow provider."""

Handle = Callable[[Sequence[Incoming], float | None], list[Fate]]
"""Handles a batch, waiting so many seconds at most for each row (None: as usual). What it raises had no effect."""

_CAREFUL: Final = 5.0
"""Seconds for which it is found out first which rows are locked, after one was."""

_ALONE: Final = 0.1
"""Seconds that a message by itself waits for what no look can see: a row that is not committed yet."""

_IN_LINE: Final = (0.3, 0.6, 1.2, 2.4)
"""Seconds to wait for rows in demand, one after the other: who gave up a place in the line waits longer at the next."""


class Isolation:
    """Of one service. `look` finds the orders of a batch that need a locked row, `failed` gives the verdict on a
    message that met an error. Safe to use from several threads."""

    def __init__(
        self,
        service: str,
        look: Callable[[Sequence[Incoming]], Locked],
        failed: Callable[[Incoming, Exception], Verdict],
    ) -> None:
        self._service = service
        self._look = look
        self._failed = failed
        self._careful_until = 0.0

    def run(self, handle: Handle, batch: Sequence[Incoming]) -> list[Fate]:
        """What `handle` says of each message of a batch, in their order. Never raises."""
        if not batch:
            return []
        if time.monotonic() < self._careful_until:
            return self._carefully(handle, batch)
        try:
            return handle(batch, None)
        except Contended as error:
            log.info("rows are locked elsewhere", service=self._service, error=str(error), messages=len(batch))
            self._take_care()
            return self._carefully(handle, batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is one message's failure
            return self._apart(handle, batch, error)

    def _apart(self, handle: Handle, batch: Sequence[Incoming], error: Exception) -> list[Fate]:
        """After a batch failed: each message by itself, so that the error is one message's."""
        if isinstance(error, DatabaseUnavailable) and not isinstance(error, Contended):
            return [Retry(str(error)) for _ in batch]  # alone, each would only wait for it again
        if len(batch) == 1 and not isinstance(error, psycopg.errors.UniqueViolation):
            return [self._failed(batch[0], error)]
        if len(batch) > 1:
            log.warning("a batch failed; handling it one by one", service=self._service, error=repr(error))
        # By itself once more also after the race with a twin of the message: that has committed by now.
        lock_timeout = _ALONE if isinstance(error, Contended) else None
        return [fate for incoming in batch for fate in self._alone(handle, incoming, lock_timeout)]

    def _alone(self, handle: Handle, incoming: Incoming, lock_timeout: float | None) -> list[Fate]:
        for last in (False, True):
            try:
                return handle([incoming], lock_timeout)
            except Exception as error:  # noqa: BLE001 - as above
                if _twin_was_first(error):
                    if last:  # recording a provider's answer doesn't ask the inbox: the next receive does
                        return [Retry(str(error))]
                elif last or not isinstance(error, psycopg.errors.UniqueViolation):
                    return [self._failed(incoming, error)]
        raise AssertionError("unreachable")

    def _carefully(self, handle: Handle, batch: Sequence[Incoming]) -> list[Fate]:
        try:
            held, in_demand = self._look(batch)
        except DatabaseUnavailable as error:  # a lock on the whole table, too
            return [Retry(str(error), soon=isinstance(error, Contended)) for _ in batch]
        except Exception as error:  # noqa: BLE001 - as above
            return self._apart(handle, batch, error)
        if held or in_demand:
            self._take_care()
        free = [m for m in batch if m.order_id not in held | in_demand]
        waiting = [m for m in batch if m.order_id in in_demand]
        fates: dict[int, Fate] = {id(m): _held(m) for m in batch if m.order_id in held}
        try:
            handled = handle(free, None) if free else []
        except Exception as error:  # noqa: BLE001 - as above
            handled = self._apart(handle, free, error)
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
                except Exception:  # noqa: BLE001 - put off, all of them
                    break
                fates |= {id(m): _held(m) for m in waiting if m.order_id in held}
                waiting = [m for m in waiting if m.order_id not in held]
            except Exception as error:  # noqa: BLE001 - as above
                fates |= zip(map(id, waiting), self._apart(handle, waiting, error), strict=True)
                waiting = []
        self._take_care()
        return [fates.get(id(m)) or _held(m) for m in batch]

    def _take_care(self) -> None:
        self._careful_until = time.monotonic() + _CAREFUL


def _twin_was_first(error: Exception) -> bool:
    """Whether another process has claimed the message in the inbox: nobody's failure."""
    table = error.diag.table_name if isinstance(error, psycopg.errors.UniqueViolation) else None
    return (table or "").startswith("inbox")


def _held(incoming: Incoming) -> Retry:
    return Retry(f"a row that order {incoming.order_id} needs is locked elsewhere", soon=True)
