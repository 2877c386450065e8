"""Which service sends what to whom under a workflow: played through with the routing table and the saga's rules.

No service takes part. Their reactions follow from the same rules (a success starts the next step, a refusal or a
cancellation compensates); tests compare this play with the reactions, the engine and the state machine that really run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from orderflow import contracts as c
from orderflow.contracts import Message, Workflow, name_of
from orderflow.routing import COORDINATOR, TABLE, Channel
from orderflow.saga import PAYMENT, SHIPMENT, STEPS, STOCK, Step, owed, still_owed

OUTCOMES: Final[Mapping[str, Step | None]] = {
    "success": None, "out-of-stock": STOCK, "declined": PAYMENT, "undeliverable": SHIPMENT,
}  # fmt: skip
"""What can come of an order → the step that refuses."""

_STEP_OF: Final = {step.service: step for step in STEPS}
_SUCCESSES: Final = {step.success for step in STEPS}
_REFUSALS: Final = {step.refusal for step in STEPS}
_FORWARD: Final = {c.OrderPlaced, c.OrderPaid} | _SUCCESSES
_FACTS: Final = _SUCCESSES | _REFUSALS | {step.undone for step in STEPS} | {c.OrderConfirmed, c.OrderCancelled}


@dataclass(frozen=True, slots=True)
class Tell:
    """One message. `acts`: the receivers that act on it; the others only record it."""

    sender: str
    message: type[Message]
    channel: Channel
    receivers: tuple[str, ...]
    acts: tuple[str, ...]

    @property
    def name(self) -> str:
        return name_of(self.message)


def play(workflow: Workflow, outcome: str) -> list[Tell]:
    """The messages of one order in the order in which they are sent, from OrderPlaced to its end."""
    return _Play(workflow, OUTCOMES[outcome]).run()


class _Play:
    def __init__(self, workflow: Workflow, refuses: Step | None) -> None:
        self._table = TABLE[workflow]
        self._coordinator = COORDINATOR[workflow]
        self._refuses = refuses
        self._facts: set[str] = set()
        self._sent: set[tuple[str, type[Message]]] = set()

    def run(self) -> list[Tell]:
        told: list[Tell] = []
        waiting: deque[tuple[str, type[Message]]] = deque([("order", c.OrderPlaced)])
        while waiting:
            sender, message = waiting.popleft()
            route = self._table[message]
            answers = [(name, reply) for name in route.listeners for reply in self._hear(name, message)]
            fresh = [(name, reply) for name, reply in answers if (name, reply) not in self._sent]
            self._sent |= set(fresh)
            if route.channel is not Channel.NONE:
                acts = tuple(dict.fromkeys(name for name, _ in answers))
                told.append(Tell(sender, message, route.channel, route.listeners, acts))
            waiting += fresh
        return told

    def _hear(self, name: str, message: type[Message]) -> list[type[Message]]:
        """What `name` sends when it receives `message`."""
        if name in _STEP_OF:
            return [self._step(_STEP_OF[name], message)]
        replies = []
        if name == "order":
            replies += self._arbiter(message)
        if name == self._coordinator:
            replies += self._coordinate(message)
        return replies

    def _step(self, step: Step, message: type[Message]) -> type[Message]:
        if message is step.command or message in _FORWARD:
            return step.refusal if step is self._refuses else step.success
        return step.undone

    def _arbiter(self, message: type[Message]) -> list[type[Message]]:
        if message in (c.ConfirmOrder, SHIPMENT.success):
            return [c.OrderConfirmed]
        return [c.OrderCancelled] if message is c.CancelOrder else []

    def _coordinate(self, message: type[Message]) -> list[type[Message]]:
        if message in _FACTS:
            self._facts.add(name_of(message))
        if {name_of(c.OrderConfirmed), name_of(c.OrderCancelled)} & self._facts:
            return []
        if self._coordinator == "order":
            # It sends no command: in choreography each service compensates on its own.
            done = owed(self._facts) is not None and not still_owed(self._facts)
            return [c.OrderCancelled] if done else []
        debts = owed(self._facts)
        if debts is not None:
            left = still_owed(self._facts)
            return [left[-1].undo if left else c.CancelOrder]
        following = next((s for s in STEPS if name_of(s.success) not in self._facts), None)
        move = following.command if following else c.ConfirmOrder
        if move in self._table:
            return [move]
        # Hybrid: the steps that it has no queue for are choreographed, from OrderPaid on.
        return [c.OrderPaid] if following else []


def lanes(workflow: Workflow) -> tuple[str, ...]:
    """The participants, in the order in which they are drawn."""
    told = [tell for outcome in OUTCOMES for tell in play(workflow, outcome)]
    named = {name for tell in told for name in (tell.sender, *tell.receivers)}
    ranked = ("order", COORDINATOR[workflow], *(step.service for step in STEPS))
    return tuple(name for name in dict.fromkeys(ranked) if name in named)


def decider(workflow: Workflow) -> str:
    """Who decides an order's next step, derived from the routing table."""
    if COORDINATOR[workflow] == "order":
        return "each service"
    if TABLE[workflow][c.OrderPlaced].channel is Channel.START:
        return "the state machine"
    return "the orchestrator, then each service" if c.OrderPaid in TABLE[workflow] else "the orchestrator"
