"""The guardian restarts executions of the state machine that were lost, or that ended without an answer.

A restarted execution goes through all steps once more. Nothing is done twice, because each service answers from its own
rows, and an execution asks the arbiter before it compensates what another one may be doing. Orders that go well don't
need the guardian: while the orchestrator is stopped, executions continue, and lost ones wait.

Each look is one DescribeExecution call. An account has 15 of these per second and region, for everything that runs
there. Therefore looks are few by design: a sweep has at most `_LIMIT` of them, a running execution is looked at again
after half of the time for which it has been watched, and a guardian that gets no answer pauses, longer each time.
https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

import structlog

from orchestrator import store, watched_executions
from orchestrator.watched_executions import ATTENTION, ENDED, WATCHED, Watched, execution_name
from orderflow.broker.aws.step_functions import Execution
from orderflow.contracts import OrderNeedsAttention
from orderflow.database import Database
from orderflow.envelope import Envelope, compose
from orderflow.errors import Contended, Transient
from orderflow.messaging.outbox import Outbox
from orderflow.saga import NEEDS_ATTENTION
from orderflow.saga.audit_log import NewRecord
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

_LIMIT: Final = 10
"""Executions that one sweep looks at; there is one sweep per second."""

_LONGEST: Final = 300.0
"""At most so many seconds pass between two looks at a running execution."""

_LONGEST_REST: Final = 10.0
"""The longest pause, in seconds, of a guardian that gets no answer: when throttled, it makes one call per ten seconds.
"""


class Executions(Protocol):
    """The calls to Step Functions that the guardian makes. Each may raise BrokerUnavailable."""

    def describe(self, name: str) -> Execution | None: ...

    def restart(self, envelope: Envelope, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a look: the row's new state, whether to start another execution, and why."""

    state: str
    restart: bool = False
    why: str = ""


def judge(watched: Watched, found: Execution | None, most_restarts: int) -> Verdict:
    """Decides what follows from a look. Pure."""
    if found is not None and found.status == "RUNNING":
        return Verdict(WATCHED)
    if found is None:
        why = "the execution is lost"
    elif found.status == "SUCCEEDED":
        if not watched.doubted and not watched.retried:
            return Verdict(ENDED)  # it ended by the arbiter's answer, so the order is terminal
        why = "the execution ended, and the order is open"
    else:
        why = f"the execution ended {found.status} {found.error}".rstrip()
        if found.error == NEEDS_ATTENTION and not watched.retried:
            return Verdict(ATTENTION, why="an undo got no answer")
    if watched.restarts >= most_restarts and not watched.retried:
        return Verdict(ATTENTION, why=f"{why}, and was restarted {watched.restarts} times")
    return Verdict(WATCHED, restart=True, why="an operator's retry" if watched.retried else why)


class Guardian:
    """See `orderflow.service.Sweeper`."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        executions: Executions,
        settings: Settings,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._executions = executions
        self._settings = settings
        self._now = now
        self._unanswered = 0
        self._rests_until = 0.0

    def waits(self) -> bool:
        return False  # the guardian asks Step Functions itself; no queue has to be read first

    def sweep(self, lag: float, resumed: float = inf) -> bool:
        if self._now() < self._rests_until:
            return False
        # The lease is short: two guardians that restart an execution give it the same name, so that is safe, but the
        # orders of a guardian that dies wait until its lease ends.
        due, more = watched_executions.claim(self._database, self._settings.lease, _LIMIT)
        for watched in due:
            try:
                verdict = judge(watched, self._executions.describe(watched.name), self._settings.undo_attempts)
                self._act(watched, verdict)
            except Contended as error:
                log.info("an execution's row is locked; continuing with the others", error=str(error))
            except Transient:
                self._unanswered += 1
                rest = min(_LONGEST_REST, 0.5 * 2.0 ** min(self._unanswered, 10))
                self._rests_until = self._now() + random.uniform(rest / 2, rest)
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the other executions must be looked at
                with self._database.transaction() as connection:
                    watched_executions.ASIDE.put({watched.order_id: error}, connection.execute)
            else:
                self._unanswered = 0
        return more and not due  # other executions that are due wait for the next sweep

    def _act(self, watched: Watched, verdict: Verdict) -> None:
        restarts = watched.restarts + verdict.restart
        entries: list[NewRecord] = []
        if verdict.restart:
            # Restart first, record later: the name makes sure that it happens once, even if this process dies here.
            name = execution_name(watched.order_id, restarts)
            self._executions.restart(watched.placed, name)
            log.warning("execution restarted", order_id=watched.order_id, name=name, reason=verdict.why)
            note = f"{verdict.why}; restarted as {name}"
            entries.append(NewRecord(watched.order_id, "orchestrator", "note", "ExecutionRestarted", note=note))
        with self._outbox.transaction() as unit:
            soonest = self._settings.resend_after[0]
            next_in = soonest if verdict.restart else max(soonest, min(_LONGEST, watched.age / 2))
            saved = watched_executions.save(unit.connection, watched, verdict.state, restarts, next_in)
            if saved is None:
                return
            if saved == ATTENTION:
                envelope = _needs_attention(watched.placed, verdict.why)
                unit.stage([envelope])
                entries.append(
                    NewRecord(watched.order_id, "orchestrator", "event", envelope.name, envelope.id, note=verdict.why)
                )
            store.LOG.write(unit.connection, entries)


def _needs_attention(placed: Envelope, reason: str) -> Envelope:
    return compose(
        OrderNeedsAttention(reason=reason),
        source="orchestrator",
        order_id=placed.subject,
        workflow=placed.workflow,
        event_bus=placed.eventbus,
        traceparent=placed.traceparent,
    )
