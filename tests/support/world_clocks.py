"""Time in the world of one process (`tests.support.world`): it stands still until a test lets it pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orderflow.providers.calls import CallPolicy
from orderflow.providers.retrying import Retrying
from orderflow.service import Service
from tests.support.aws_like.memory import AwsLikeBroker
from tests.support.world_looks import WAITING, Looks

_OWNERS_TIMES: Final = {
    "receivers": ("reported_at", "empty_from", "received_at", "oldest", "blocked_until"),
    "given_back": ("until",),
    "watches": ("heard_at", "resumed_at"),
    "frontiers": ("asked_at", "answered_at"),
}

UNSENT: Final = "SELECT 1 FROM outbox WHERE parked IS NULL LIMIT 1"

_HELD: Final = f"SELECT EXISTS ({UNSENT}), EXISTS (SELECT FROM outbox)"
"""Whether there is a message to send, and whether there is any: a dead letter may be redriven."""


class Clocks:
    """What runs out, comes due and grows old, by what has it. The world has the services and the broker."""

    broker: AwsLikeBroker
    services: Mapping[str, Service]
    passed = 0.0
    """Seconds that circuit breakers' clocks are ahead."""
    looks: Looks
    _moved = 0.0

    def execute(self, name: str, sql: str, parameters: Any = None) -> list[Any]:
        raise NotImplementedError

    def publish(self, name: str) -> None:
        raise NotImplementedError

    def sweep(self, name: str, **known: Any) -> None:
        raise NotImplementedError

    def time_out(self) -> None:
        """Late events arrive, visibility timeouts run out, and what a destination did not take may be tried again."""
        self.broker.account.pass_time(60)
        for queue in self.broker.queues.values():
            queue.redeliver()
        for name, service in self.services.items():
            if self.looks.unsent(name):
                self.execute(name, "UPDATE outbox SET leased_until = now() - interval '1 s' WHERE attempts > 0")
                service.publisher.relay()

    def _run_out(self) -> bool:
        """Visibility timeouts and leases run out, if anything waits for that: a failed call leaves it, or a busy
        machine."""
        held = [queue for queue in self.broker.queues.values() if queue.in_flight]
        unsent = [name for name in self.services if self._unsent(name)]
        for queue in held:
            queue.redeliver()
        if unsent:
            self.relay()
        return bool(held or unsent)

    def _unsent(self, name: str) -> bool:
        """Whether its outbox holds messages to send."""
        if not self.looks.unsent(name):
            return False
        [(unsent, held)] = self.execute(name, _HELD)
        if not held:
            self.looks.no_message(name)
        return bool(unsent)

    def call_again(self, *names: str) -> int:
        """The calls that waited for their provider and are due, by all services or some; how many."""
        moved = 0
        for name in names or WAITING:
            for worker in self.services[name].workers:
                if isinstance(worker, Retrying) and self.looks.called(name):
                    moved += worker.step()
        return moved

    def end_backoffs(self, *names: str) -> None:
        """All calls that wait for their provider, in all services or some, are due, and it may be probed."""
        self.passed += CallPolicy().probe_every
        for name, table in WAITING.items():
            if (not names or name in names) and self.looks.called(name):
                due = f"UPDATE {table} SET next_at = now() - interval '1 s' RETURNING 1"
                if not self.execute(name, due):
                    self.looks.no_call(name)

    def relay(self) -> None:
        """Leases run out; whoever finds the messages sends them."""
        for name, service in self.services.items():
            self.publish(name)  # what a process that lives has in memory is sent long before
            service.outbox.flush()
            for lane in service.publisher.lanes:
                lane._waiting.clear()  # that of what could not be sent has run out, too
            if self.looks.unsent(name):
                if self.execute(name, "UPDATE outbox SET leased_until = now() - interval '1 second' RETURNING 1"):
                    service.publisher.relay()
                else:
                    self.looks.no_message(name)
            self.publish(name)

    def pass_time(self, seconds: float = 0) -> None:
        """Every owner looks after what it owns, as if `seconds` more had passed since the last progress; but what waits
        for an operator keeps waiting."""
        self.execute("orchestrator", "UPDATE executions SET next_at = now() - interval '1 s' WHERE state = 'watched'")
        for name, table in (("order", "orders"), ("orchestrator", "sagas")):
            self.services[name].outbox.flush()  # as a process does every second: what it has sent is out of its outbox
            self.execute(
                name,
                f"UPDATE {table} SET progress_at = progress_at - make_interval(secs => %s),"
                " next_at = CASE WHEN attention THEN next_at ELSE now() - interval '1 s' END",
                [seconds],
            )
            age_answers(self.services[name], seconds)
            self.sweep(name)
        self.broker.account.pass_time(seconds)
        self.broker.machine.pass_time(seconds)

    def move_clocks(self, seconds: float) -> None:
        """So much time passes for all that is kept with its time by owners and queues. Nobody looks."""
        self._moved += seconds
        for queue in self.broker.queues.values():
            for broker_id in queue.sent_at:
                queue.sent_at[broker_id] -= seconds
        for name, table in (("order", "orders"), ("orchestrator", "sagas")):
            for of, columns in {table: ("progress_at", "next_at"), **_OWNERS_TIMES}.items():
                times = ", ".join(f"{column} = {column} - make_interval(secs => {seconds})" for column in columns)
                self.execute(name, f"UPDATE {of} SET {times}")
            service = self.services[name]
            age_answers(service, seconds)
            service.receivers._epoch = None  # type: ignore[union-attr]

    def expire_leases(self) -> None:
        """The intents of processes that died can be taken over."""
        self.execute(
            "payment", "UPDATE payments SET lease_until = now() - interval '1 s' WHERE lease_until IS NOT NULL"
        )
        self.execute(
            "shipping", "UPDATE shipments SET lease_until = now() - interval '1 s' WHERE lease_until IS NOT NULL"
        )


def age_answers(service: Service, seconds: float) -> None:
    """What an owner has heard is older by so much."""
    if service.answers:
        known = service.answers._known
        known |= {name: (asked - seconds, answered - seconds) for name, (asked, answered) in known.items()}
