"""The guardian of the state machine's executions: what was lost, or ended without an answer, is started again.

A restarted execution goes through all steps once more; each service answers from its own rows, so nothing is done
twice, and the arbiter is asked before an execution undoes what another may be doing. It isn't needed for an order to
get through: with the orchestrator stopped, executions go on, and what was lost waits.

Each look is a DescribeExecution, of which an account has 15 a second in a region, for all that run there. So looks are
few by design: a turn has at most `_LIMIT`, an execution that runs is looked at again after half of the time that it has
been watched, and a guardian that gets no answer rests, for longer each time.
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
"""Executions looked at in a turn, of which there is one a second."""

_LONGEST: Final = 300.0
"""Seconds between two looks at an execution that runs, at most."""

_LONGEST_REST: Final = 10.0
"""Seconds that a guardian rests at most which got no answer: throttled, it makes one call in ten seconds."""


class Executions(Protocol):
    """What the guardian asks of Step Functions; each may raise BrokerUnavailable."""

    def describe(self, name: str) -> Execution | None: ...

    def restart(self, envelope: Envelope, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a look: the row's state, whether another execution is started, and why."""

    state: str
    restart: bool = False
    why: str = ""


def judge(watched: Watched, found: Execution | None, most_restarts: int) -> Verdict:
    """The rules, pure."""
    if found is not None and found.status == "RUNNING":
        return Verdict(WATCHED)
    if found is None:
        why = "the execution is lost"
    elif found.status == "SUCCEEDED":
        if not watched.doubted and not watched.retried:
            return Verdict(ENDED)  # by the arbiter's answer: the order is terminal
        why = "the execution ended, and the order is open"
    else:
        why = f"the execution ended {found.status} {found.error}".rstrip()
        if found.error == NEEDS_ATTENTION and not watched.retried:
            return Verdict(ATTENTION, why="an undo got no answer")
    if watched.restarts >= most_restarts and not watched.retried:
        return Verdict(ATTENTION, why=f"{why}, and was started again {watched.restarts} times")
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
        return False  # Step Functions is asked itself, not its queue

    def sweep(self, lag: float, resumed: float = inf) -> bool:
        if self._now() < self._rests_until:
            return False
        # A short lease: whoever looks too gives the execution the same name, but what dies here has its orders wait.
        due, more = watched_executions.claim(self._database, self._settings.lease, _LIMIT)
        for watched in due:
            try:
                verdict = judge(watched, self._executions.describe(watched.name), self._settings.undo_attempts)
                self._act(watched, verdict)
            except Contended as error:
                log.info("an execution's row is locked; the others are looked after", error=str(error))
            except Transient:
                self._unanswered += 1
                rest = min(_LONGEST_REST, 0.5 * 2.0 ** min(self._unanswered, 10))
                self._rests_until = self._now() + random.uniform(rest / 2, rest)
                raise
            except Exception as error:  # noqa: BLE001 - the others must be looked after, whatever it is
                with self._database.transaction() as connection:
                    watched_executions.ASIDE.put({watched.order_id: error}, connection.execute)
            else:
                self._unanswered = 0
        return more and not due  # what else is due waits for the next turn

    def _act(self, watched: Watched, verdict: Verdict) -> None:
        restarts = watched.restarts + verdict.restart
        entries: list[NewRecord] = []
        if verdict.restart:
            # Before it is noted: the name makes that it is done once, also if this process dies here.
            name = execution_name(watched.order_id, restarts)
            self._executions.restart(watched.placed, name)
            log.warning("execution started again", order_id=watched.order_id, name=name, reason=verdict.why)
            note = f"{verdict.why}; started again as {name}"
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
