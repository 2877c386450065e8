"""Payment or shipping as one process would run them, without threads of its own, over the simulated provider."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from typing import Any

import psycopg
import pytest

from orderflow import clock, failpoints
from orderflow.contracts import (
    EventBus,
    Message,
    Workflow,
)
from orderflow.database import Database
from orderflow.envelope import Envelope, compose, decode
from orderflow.errors import UnknownOutcome
from orderflow.messaging import inbox
from orderflow.messaging.guard import Done, Guard, Verdict
from orderflow.messaging.outbox import Outbox
from orderflow.providers.calls import CallPolicy, ProviderApplication
from orderflow.providers.processor import ProviderProcessor
from orderflow.providers.retrying import Retrying
from simulator.ledger import Ledger
from tests.support.machine import Inline
from tests.support.provider_kinds import POLICY, Hooks, Kind
from tests.support.world import Crash


class ProviderWorld:
    """The databases of one service and its provider; processes are made on it."""

    def __init__(self, kind: Kind, url: str, providers_url: str) -> None:
        self.kind = kind
        self._url = url
        self._admin = psycopg.connect(url, autocommit=True)
        self.ledger = Ledger(providers_url, timeout=POLICY.timeout, size=8)
        self.ledger.open(10)
        self._processes: list[Process] = []

    def process(self, policy: CallPolicy = POLICY, *, executor: Executor | None = None) -> Process:
        """Starts another process of the service."""
        process = Process(self, self._url, policy, executor)
        self._processes.append(process)
        return process

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        cursor = self._admin.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []

    def row(self, order_id: str) -> tuple[str, int]:
        """(state, fence) of an order."""
        [row] = self.sql(f"SELECT state, fence FROM {self.kind.table} WHERE order_id = %s", order_id)
        return row

    def expire_lease(self, order_id: str) -> None:
        """Ends the intent's lease, as if the process that took it had been silent for long."""
        self.sql(f"UPDATE {self.kind.table} SET lease_until = now() - interval '1 s' WHERE order_id = %s", order_id)

    def waits(self, order_id: str) -> tuple[bool, int, int, bool] | None:
        """(compensates, resend number of the request, tries, due now) of an order that waits for the provider."""
        rows = self.sql(
            f"SELECT undo, resend, tries, next_at <= now() FROM {self.kind.table}_waiting WHERE order_id = %s", order_id
        )
        return rows[0] if rows else None

    def make_due(self) -> None:
        """Ends every back-off."""
        self.sql(f"UPDATE {self.kind.table}_waiting SET next_at = now() - interval '1 s'")

    def call_again(self, process: Process) -> int:
        """A process makes the waiting calls, whatever their back-off; returns how many it found."""
        self.make_due()
        return process.retrying.step()

    def envelopes(self, order_id: str) -> list[Envelope]:
        """All answers for an order, in their envelopes."""
        rows = self.sql("SELECT body FROM outbox WHERE order_id = %s ORDER BY entry", order_id)
        return [decode(body) for (body,) in rows]

    def age(self, order_id: str, seconds: float) -> None:
        """Makes the intent older by this many seconds."""
        shift = "created_at = created_at - make_interval(secs => %s)"
        self.sql(f"UPDATE {self.kind.table} SET {shift} WHERE order_id = %s", seconds, order_id)

    def outcomes(self, order_id: str) -> list[Message]:
        """All answers for an order, in order of time (nothing is published here, so the outbox holds them)."""
        return [envelope.message() for envelope in self.envelopes(order_id)]

    def entries(self, order_id: str) -> list[str]:
        """The kinds of the provider's ledger entries of an order, oldest first."""
        kinds = (self.kind.does, self.kind.undoes)
        return [entry.kind for entry in reversed(self.ledger.entries(kinds, order_id, 100))]

    def stop_processes(self) -> None:
        """Ends all processes that were started."""
        while self._processes:
            self._processes.pop().close()

    def close(self) -> None:
        self.stop_processes()
        self.ledger.close()
        self._admin.close()


class Process:
    """One process: its pool, its provider's client, its processor."""

    def __init__(self, world: ProviderWorld, url: str, policy: CallPolicy, executor: Executor | None) -> None:
        kind = world.kind
        self.database = Database(url, size=8, name=f"test-{kind.service}")
        self.database.open()
        provider = kind.provider(world.ledger, timeout=policy.timeout, key_life=policy.key_life)
        self.hooks = provider.hooks = Hooks()
        self.provider = provider
        self.application = kind.application(provider, policy, executor=executor or Inline())
        outbox = Outbox(self.database, lease=10)
        self.retrying = Retrying(self.application, outbox)
        self.processor = ProviderProcessor(
            self.application,
            outbox,
            Guard(
                "test",
                lambda message_id, error: inbox.count_failure(self.database, message_id, error),
                parked_at=5,
            ),
        )

    def handle(self, *envelopes: Envelope) -> list[Verdict]:
        """The verdicts on a batch; waits for those that come late."""
        return [v.result(10) if isinstance(v, Future) else v for v in self.processor.process(envelopes)]

    def close(self) -> None:
        ProviderApplication.close(self.application)  # the ledger belongs to the ProviderWorld
        self.database.close()


def ask(message: Message, order_id: str | None = None, message_id: str | None = None) -> Envelope:
    """A command in its envelope, as the orchestrator sends it."""
    return compose(
        message, source="test", order_id=order_id or clock.new_id(), message_id=message_id,
        workflow=Workflow.ORCHESTRATION, event_bus=EventBus.SNS,
    )  # fmt: skip


def names(messages: Sequence[Message]) -> list[str]:
    """The short names of messages; a refusal because the step was compensated is named with its reason."""
    return [type(m).__name__ + (":undone" if getattr(m, "reason", "") == "undone" else "") for m in messages]


def crash() -> None:
    """For a failpoint: the process dies there."""
    raise Crash


def fail() -> None:
    """For a hook: the provider gives no answer."""
    raise UnknownOutcome("for the test")


def kinds_of(verdicts: Sequence[Verdict]) -> list[type]:
    """The classes of verdicts."""
    return [type(v) for v in verdicts]


def bring_to(state: str, world: ProviderWorld, order_id: str) -> None:
    """Puts an order's row into a state, as a process that did that would have left it."""
    helper = world.process()
    kind = world.kind
    if state in ("done", "undone", "undoing"):
        assert kinds_of(helper.handle(ask(kind.good, order_id))) == [Done]
    if state == "undone":
        assert kinds_of(helper.handle(ask(kind.undo, order_id))) == [Done]
    if state == "refused":
        assert kinds_of(helper.handle(ask(kind.bad, order_id))) == [Done]
    if state in ("intended", "undoing"):
        failpoints.arm("intent.after", crash)
        with pytest.raises(Crash):
            helper.handle(ask(kind.good if state == "intended" else kind.undo, order_id))
        failpoints.disarm()
    assert world.row(order_id)[0] == state
    world.sql("DELETE FROM outbox WHERE order_id = %s", order_id)
