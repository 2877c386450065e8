"""The deadline of an answer starts when its question is sent, however long the question waited in the outbox.

Temporal has the same two clocks, schedule-to-start and start-to-close:
https://docs.temporal.io/encyclopedia/detecting-activity-failures
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final, Protocol

from orderflow import failpoints
from orderflow.database import Connection, Database

LATE: Final = 5.0
"""Seconds after its staging from which a message counts as sent late."""

Restart = Callable[[Connection, Sequence[str]], Collection[str]]
"""Restarts the deadlines of these orders. Returns those that it could not lock; they are tried again."""


class Staged(Protocol):
    """A message in the outbox: when it was staged (monotonic seconds), and its order."""

    @property
    def id(self) -> str: ...

    @property
    def staged(self) -> float: ...

    @property
    def order_id(self) -> str: ...


class Late:
    """The messages that an owner of deadlines sent late. They stay in the outbox until the deadlines of their orders
    have been restarted: while a question is in the outbox, its deadline doesn't count. Safe to use from several
    threads.
    """

    def __init__(self, database: Database, restart: Restart, delete: bytes) -> None:
        self._database = database
        self._restart = restart
        self._delete = delete
        self._sent: deque[Staged] = deque()

    def note(self, entry: Staged) -> bool:
        """Takes a message that has been sent, if it was late. Returns whether it was."""
        late = entry.staged < time.monotonic() - LATE
        if late:
            self._sent.append(entry)
        return late

    def flush(self) -> None:
        """Restarts the deadlines and deletes the messages, in one transaction. Raises DatabaseUnavailable."""
        late: list[Staged] = []
        with suppress(IndexError):
            while True:
                late.append(self._sent.popleft())
        if not late:
            return
        orders = sorted({entry.order_id for entry in late})
        locked: Collection[str] = orders  # until the locked ones are known
        try:
            with self._database.transaction() as connection:
                skipped = self._restart(connection, orders)
                connection.execute(self._delete, [[e.id for e in late if e.order_id not in skipped]])
                failpoints.reached("mark.before")
            locked = skipped
            failpoints.reached("mark.after")
        finally:
            self._sent.extendleft(e for e in late if e.order_id in locked)
