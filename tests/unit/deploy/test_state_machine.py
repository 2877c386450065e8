"""The generated state machine is the saga: it sends what the engine would, in that order, with those attempts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.stack import state_machine
from orchestrator.engine import decide
from orchestrator.guardian import NEEDS_ATTENTION
from orderflow import contracts as c
from orderflow.broker.aws.step_functions import execution_input, forward_timeouts, task_output
from orderflow.contracts import Message, Workflow, name_of
from orderflow.envelope import Envelope, compose
from orderflow.saga import DEADLINE, STEP_UNDONE, STEPS, fact_of
from orderflow.settings import Settings
from tests.support.asl import UNSENT, Answer, Walk
from tests.support.placed import SNAPSHOT, placed
from tests.unit.orchestrator.test_engine import FORWARD

DEFINITION = state_machine.definition()
STATES: dict[str, Any] = DEFINITION["States"]
SETTINGS = Settings(aws_endpoint_url="http://x")
SUCCESS: dict[type[Message], type[Message]] = {
    **{step.command: step.success for step in STEPS},
    **{step.undo: step.undone for step in STEPS},
    c.ConfirmOrder: c.OrderConfirmed,
    c.CancelOrder: c.OrderCancelled,
}
FORWARD_COMMANDS = (*(step.command for step in STEPS), c.ConfirmOrder)
SAMPLES: dict[type[Message], Message] = {
    c.StockReserved: c.StockReserved(items=SNAPSHOT.items),
    c.PaymentCharged: c.PaymentCharged(payment_id="p", amount=SNAPSHOT.total),
    c.ShipmentScheduled: c.ShipmentScheduled(shipment_id="s"),
}


def answer(asked: Envelope, message: Message) -> Answer:
    """What a service's outbox sends for the task that asked."""
    made = compose(
        message,
        source="x",
        order_id=asked.subject,
        workflow=asked.workflow,
        event_bus=asked.eventbus,
        causation_id=asked.id,
        traceparent=asked.traceparent,
        task_token=asked.tasktoken,
    )
    output: dict[str, Any] = json.loads(json.dumps(task_output(made)))
    return output


def model(envelope: Envelope) -> type[Message]:
    return c.MESSAGES[envelope.name]


def walk(choose: Callable[[Envelope], Message | None], settings: Settings = SETTINGS) -> Walk:
    """An execution whose tasks are answered by `choose`; None lets one time out."""

    def reply(asked: Envelope) -> Answer:
        message = choose(asked)
        return None if message is None else answer(asked, message)

    made = Walk(DEFINITION, json.loads(json.dumps(execution_input(placed(), settings))), reply)
    made.run()
    return made


def well(asked: Envelope) -> Message:
    """The answer of a service that does what it is asked."""
    outcome = SUCCESS[model(asked)]
    return SAMPLES.get(outcome) or outcome()


def names(made: Walk) -> list[str]:
    return [envelope.name for envelope in made.sent]


def except_for(*others: Message | tuple[type[Message], Message | None]) -> Callable[[Envelope], Message | None]:
    """All goes well but for the commands named here."""
    table = dict(others)  # type: ignore[arg-type]
    return lambda asked: table[model(asked)] if model(asked) in table else well(asked)


def test_all_goes_well() -> None:
    """Each step in order, then the confirmation; nine state transitions."""
    made = walk(well)
    assert names(made) == [name_of(step.command) for step in STEPS] + ["ConfirmOrder"]
    assert made.states[-1] == "Confirmed"
    assert len(made.states) == 9


@pytest.mark.parametrize("step", STEPS, ids=lambda s: s.name)
def test_a_refusal_owes_what_was_done_before(step: Any) -> None:
    """Undone in reverse; then the arbiter is told all of it."""
    made = walk(except_for((step.command, step.refusal(reason="no"))))
    before = STEPS[: STEPS.index(step)]
    assert names(made)[len(before) + 1 :] == [name_of(s.undo) for s in reversed(before)] + ["CancelOrder"]
    told = made.sent[-1].data
    assert told == {"reason": "no", "facts": [name_of(step.refusal), *(name_of(s.undone) for s in reversed(before))]}
    assert made.states[-1] == "Cancelled"


ALL_UNDOS = [name_of(step.undo) for step in reversed(STEPS)]


class Arbiter:
    """Asks for all undos first, as the order does that was not cancelling yet."""

    def __init__(self, then: Callable[[Envelope], Message | None]) -> None:
        self._then = then
        self._asked = 0

    def __call__(self, asked: Envelope) -> Message | None:
        if asked.name == "CancelOrder":
            self._asked += 1
            return c.OrderCancellationRequested(reason="late") if self._asked == 1 else c.OrderCancelled()
        return self._then(asked)


@pytest.mark.parametrize("command", [*(step.command for step in STEPS), c.ConfirmOrder], ids=name_of)
def test_a_deadline_asks_the_arbiter_and_undoes_all(command: type[Message]) -> None:
    """Sent again with the owners' times, each time with a counter; given up at the deadline."""
    made = walk(Arbiter(except_for((command, None))))
    late = [envelope for envelope in made.sent if model(envelope) is command]
    assert [e.resend for e in late] == [0, 1, 2, 3]
    assert len({e.id for e in late}) == 4
    assert sum(w for e, w in zip(made.sent, made.waits, strict=True) if model(e) is command) == SETTINGS.undo_after
    after = names(made)[names(made).index("CancelOrder") :]
    assert after == ["CancelOrder", *ALL_UNDOS, "CancelOrder"]
    assert made.states[-1] == "Cancelled"


def test_the_arbiters_word_is_final() -> None:
    """The deadline of the confirmation passed, but it had been confirmed: nothing is undone."""
    made = walk(except_for((c.ConfirmOrder, None), (c.CancelOrder, c.OrderConfirmed())))
    assert made.states[-1] == "Confirmed"
    assert not set(names(made)) & set(ALL_UNDOS)


def test_the_customer_cancels() -> None:
    """Seen when the machine asks to confirm."""
    made = walk(except_for((c.ConfirmOrder, c.ConfirmationRejected(reason="cancelled"))))
    assert names(made)[4:] == [*ALL_UNDOS, "CancelOrder"]
    assert made.states[-1] == "Cancelled"


def test_compensated_by_another_execution() -> None:
    """Its refusal says `undone`: the arbiter is asked before anything is undone."""
    made = walk(Arbiter(except_for((c.ChargePayment, c.PaymentDeclined(reason=c.UNDONE)))))
    assert names(made)[2:] == ["CancelOrder", *ALL_UNDOS, "CancelOrder"]
    assert made.sent[2].data["facts"] == [STEP_UNDONE]


@pytest.mark.parametrize("undo", [*(step.undo for step in STEPS), c.CancelOrder], ids=name_of)
def test_an_undo_that_fails_calls_an_operator(undo: type[Message]) -> None:
    """After its attempts, each with its time; the order is told, and the execution fails by a name of its own."""
    choose = except_for((c.ConfirmOrder, c.ConfirmationRejected()), (undo, None))
    made = walk(choose)
    late = [w for e, w in zip(made.sent, made.waits, strict=False) if model(e) is undo]
    assert late == [10, 20, *[40] * (SETTINGS.undo_attempts - 1)]
    assert made.sent[-1].name == "OrderNeedsAttention"
    assert name_of(undo) in made.sent[-1].data["reason"]
    assert STATES[made.states[-1]]["Error"] == NEEDS_ATTENTION


def test_its_times_are_the_settings() -> None:
    assert forward_timeouts(SETTINGS) == [10, 10, 20, 20]
    assert forward_timeouts(Settings(aws_endpoint_url="x", resend_after=(0.2, 0.4), undo_after=0.6)) == [1, 1, 1]
    assert forward_timeouts(Settings(aws_endpoint_url="x", undo_after=15)) == [10, 5]


def test_a_message_says_what_caused_it() -> None:
    """The chain of causes and the trace go through the machine."""
    first = placed(traceparent=None)
    data = execution_input(first, SETTINGS)
    made = Walk(DEFINITION, data, lambda asked: answer(asked, well(asked)))
    made.run()
    assert made.sent[0].causationid == first.id
    assert len({e.causationid for e in made.sent}) == 4
    assert all(e.tasktoken and e.subject == first.subject for e in made.sent)


def test_its_data_stays_small() -> None:
    """The order itself is in the execution's input only, not in every state's data."""
    made = walk(well)
    assert set(made.data) == {"now"}
    made = walk(except_for((c.ShipmentRejected, None), (c.ScheduleShipment, c.ShipmentRejected(reason="no"))))
    assert set(made.data) <= {"now", "undo"}


def test_no_state_is_out_of_reach() -> None:
    """Every state is led to, and leads on to one that is there."""
    text = json.dumps(DEFINITION)
    for name in STATES:
        assert f'"Next": "{name}"' in text or f'"Default": "{name}"' in text or DEFINITION["StartAt"] == name
    for state in STATES.values():
        choices, catches = state.get("Choices", []), state.get("Catch", [])
        following = [state.get("Next"), state.get("Default"), *(s["Next"] for s in [*choices, *catches])]
        assert {f for f in following if f} <= STATES.keys()


def test_every_state_works_on_real_data() -> None:
    """Walks that enter each of them: whatever they read of their data is there."""
    commands = [*FORWARD_COMMANDS, *(step.undo for step in STEPS), c.CancelOrder]
    refusals = [(s.command, s.refusal(reason=reason)) for s in STEPS for reason in ("no", c.UNDONE)]
    rejected = (c.ConfirmOrder, c.ConfirmationRejected())
    walks = [walk(well)]
    walks += [
        walk(except_for(one)) for one in [*((command, None) for command in FORWARD_COMMANDS), *refusals, rejected]
    ]
    walks += [walk(except_for(rejected, (command, None))) for command in commands]
    for command in commands:
        made = Walk(
            DEFINITION,
            execution_input(placed(), SETTINGS),
            lambda asked, command=command: (
                UNSENT if model(asked) is command else answer(asked, except_for(rejected)(asked))
            ),  # type: ignore[misc, arg-type]
        )
        made.run()
        walks.append(made)
    assert {name for made in walks for name in made.states} == STATES.keys()


OUTCOMES: dict[type[Message], list[Message | None]] = {
    **{s.command: [well_, s.refusal(reason="no"), s.refusal(reason=c.UNDONE), None] for s in STEPS
       for well_ in [SAMPLES[s.success]]},
    **{s.undo: [s.undone(), None] for s in STEPS},
    c.ConfirmOrder: [c.OrderConfirmed(), c.ConfirmationRejected(reason="cancelled"), None],
    c.CancelOrder: [c.OrderCancelled(), c.OrderCancellationRequested(), c.OrderConfirmed(), None],
}  # fmt: skip


@settings(deadline=None)
@given(st.data())
def test_it_decides_as_the_engine_does(data: st.DataObject) -> None:
    """Whatever the answers: each message is the engine's decision on the facts so far.

    Two differences, by design: it asks the arbiter before every undo of all (another execution may be about to
    confirm), and then undoes all in a row, also what it had undone before.
    """
    facts: set[str] = set()

    def choose(asked: Envelope) -> Message | None:
        if asked.resend == 0:
            expected = decide(Workflow.ORCHESTRATION, facts).send
            asks_first = asked.name == "CancelOrder" and bool(facts & {DEADLINE, STEP_UNDONE})
            again = any(model(asked) is s.undo and name_of(s.undone) in facts for s in STEPS)
            assert model(asked) is expected or asks_first or again, (asked.name, expected, facts)
        told_all = {name_of(s.undone) for s in STEPS} <= facts
        outcome = data.draw(st.sampled_from(OUTCOMES[model(asked)]))
        if asked.name == "CancelOrder" and (told_all or isinstance(outcome, c.OrderConfirmed)):
            # The arbiter confirms only what it was asked to confirm; and it does not ask for what has been done.
            outcome = c.OrderCancelled() if told_all or not set(FORWARD) <= facts else outcome
        if outcome is None:
            if asked.resend == 3 and model(asked) in FORWARD_COMMANDS:
                facts.add(DEADLINE)
            return None
        facts.add(fact_of(outcome))
        return outcome

    made = walk(choose)
    assert made.states[-1] in ("Confirmed", "Cancelled", "Gave up")
    if made.states[-1] == "Cancelled":
        assert "OrderCancelled" in facts
