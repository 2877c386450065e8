"""The saga engine against a hostile network: whatever comes late, twice, never or out of order, money and goods agree.

A model plays the services (with their fences and tombstones) and the arbiter; hypothesis chooses what is delivered,
repeated, lost, refused, cancelled or timed out, and when.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.engine import FORWARD, State, decide
from orderflow import contracts as c
from orderflow.contracts import Workflow, name_of
from orderflow.saga import DEADLINE, STEPS, fact_of, owed, still_owed

BY_COMMAND = {name_of(step.command): step for step in STEPS}
BY_UNDO = {name_of(step.undo): step for step in STEPS}


class Network(RuleBasedStateMachine):
    """The coordinator, three services and the arbiter; `air` holds the messages on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: set[str] = set()
        self.air: list[tuple[str, c.Message | str]] = []
        self.row = {step.name: "none" for step in STEPS}
        self.refuses: set[str] = set()
        self.order_facts: set[str] = set()
        self.open: object = None
        self.deadline_passed = False

    @initialize(
        workflow=st.sampled_from(sorted(FORWARD)),
        refuses=st.sets(st.sampled_from([s.name for s in STEPS]), max_size=1),
        ordinary=st.integers(0, 8),
    )
    def place(self, workflow: Workflow, refuses: set[str], ordinary: int) -> None:
        """And the first messages arrive in order: what is exotic shall happen to orders that got far, too."""
        self.workflow, self.refuses = workflow, refuses
        self.move()
        self.run_on(ordinary)

    @property
    def confirmed(self) -> bool:
        return "OrderConfirmed" in self.order_facts

    @property
    def cancelled(self) -> bool:
        return "OrderCancelled" in self.order_facts

    def move(self) -> None:
        """The coordinator sends what is open, if that changed."""
        decision = decide(self.workflow, self.facts)
        question = (decision.send, frozenset(self.facts) if decision.send is c.CancelOrder else None)
        if decision.send and question != self.open:
            self.open = question
            self.send_open()

    def send_open(self) -> None:
        decision = decide(self.workflow, self.facts)
        if decision.send is c.CancelOrder:
            self.air.append(("order", c.CancelOrder(facts=tuple(sorted(self.facts)))))
        elif decision.send:
            self.air.append((decision.service, name_of(decision.send)))

    @precondition(lambda self: self.air)
    @rule(data=st.data(), keep=st.booleans())
    def deliver(self, data: st.DataObject, keep: bool) -> None:
        """Any message, in any order; kept, it is delivered again later."""
        index = data.draw(st.integers(0, len(self.air) - 1))
        self.arrive(*(self.air[index] if keep else self.air.pop(index)))

    @precondition(lambda self: self.air)
    @rule(count=st.integers(1, 8))
    def run_on(self, count: int) -> None:
        """A stretch of ordinary days."""
        for _ in range(count):
            if self.air:
                self.arrive(*self.air.pop(0))

    def arrive(self, to: str, message: c.Message | str) -> None:
        if to == "orchestrator":
            assert isinstance(message, c.Message)
            before = len(self.facts)
            self.facts.add(fact_of(message))
            if len(self.facts) > before:
                self.move()
        elif to == "order":
            self.arbiter(message)
        else:
            self.service(str(message))

    @precondition(lambda self: self.air)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.air.pop(data.draw(st.integers(0, len(self.air) - 1)))

    @rule()
    def send_again(self) -> None:
        """The owner's timer."""
        self.send_open()

    @rule()
    def time_out(self) -> None:
        """The owner's deadline, at any moment while the saga runs."""
        if decide(self.workflow, self.facts).state is State.RUNNING and not self.deadline_passed:
            self.deadline_passed = True
            self.facts.add(DEADLINE)
            self.move()

    @rule()
    def customer_cancels(self) -> None:
        if not self.confirmed and not self.cancelled:
            self.order_facts.add("OrderCancellationRequested")
            self.air.append(("orchestrator", c.OrderCancellationRequested()))

    def service(self, name: str) -> None:
        if name == "OrderPaid":
            self.do(STEPS[2])
        elif name in BY_COMMAND:
            self.do(BY_COMMAND[name])
        else:
            step = BY_UNDO[name]
            self.row[step.name] = "undone"
            self.air.append(("orchestrator", step.undone()))

    def do(self, step) -> None:  # type: ignore[no-untyped-def]
        if self.row[step.name] == "none":
            self.row[step.name] = "refused" if step.name in self.refuses else "done"
        answers = {"refused": step.refusal(reason="no"), "undone": step.refusal(reason=c.UNDONE)}
        if self.row[step.name] == "done":
            sample = {"items": (), "payment_id": "p", "shipment_id": "s", "amount": c.Money(amount=1, currency="EUR")}
            answer = step.success.model_validate({k: v for k, v in sample.items() if k in step.success.model_fields})
        else:
            answer = answers[self.row[step.name]]
        self.air.append(("orchestrator", answer))
        if self.workflow is Workflow.HYBRID and step is STEPS[2]:
            # On the bus: the order hears it as well, and confirms by its own reaction.
            self.air.append(("order", answer))

    def arbiter(self, message: c.Message | str) -> None:
        facts = self.order_facts
        if isinstance(message, c.CancelOrder):
            if not self.confirmed and not self.cancelled:
                facts |= set(message.facts)
                if owed(facts) is None or still_owed(facts):
                    facts.add("OrderCancellationRequested")
                    self.air.append(("orchestrator", c.OrderCancellationRequested()))
                    return
                facts.add("OrderCancelled")
            self.air.append(("orchestrator", c.OrderConfirmed() if self.confirmed else c.OrderCancelled()))
            return
        if isinstance(message, c.Refusal):
            facts.add(fact_of(message))
            return
        if self.confirmed:
            self.air.append(("orchestrator", c.OrderConfirmed()))
        elif owed(facts) is not None or self.cancelled:
            self.air.append(("orchestrator", c.ConfirmationRejected()))
        else:
            facts.add("OrderConfirmed")
            self.air.append(("orchestrator", c.OrderConfirmed()))

    @invariant()
    def never_both(self) -> None:
        assert not (self.confirmed and self.cancelled)

    @invariant()
    def confirmed_orders_keep_what_was_done(self) -> None:
        if self.confirmed:
            assert set(self.row.values()) == {"done"}, self.row

    @invariant()
    def cancelled_orders_keep_nothing(self) -> None:
        if self.cancelled:
            assert "done" not in self.row.values(), self.row

    def teardown(self) -> None:
        """From wherever it stands: with a network that works, every order ends."""
        if not hasattr(self, "workflow"):
            return
        for _ in range(200):
            if decide(self.workflow, self.facts).send is None:
                break
            if not self.air:
                self.send_open()
            self.arrive(*self.air.pop(0))
        assert self.confirmed or self.cancelled, (self.facts, self.row)
        self.confirmed_orders_keep_what_was_done()
        self.cancelled_orders_keep_nothing()


TestNetwork = Network.TestCase
TestNetwork.settings = settings(
    max_examples=200, stateful_step_count=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
pytestmark = pytest.mark.timeout(120)
