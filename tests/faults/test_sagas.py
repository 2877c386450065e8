"""FAULTS row 18: a missing reply, a failing compensation, a cancellation at every boundary; in every workflow.

In one process (see `tests.support.world`), so that each fault happens exactly where it should.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from orderflow import failpoints
from orderflow.broker import Parcel, SendFailure
from orderflow.contracts import (
    EventBus,
    Message,
    OrderConfirmed,
    OrderNeedsAttention,
    OrderRetryRequested,
    ShipmentScheduled,
    StockReleased,
    Workflow,
    name_of,
)
from orderflow.routing import COORDINATOR, Channel
from orderflow.saga import STEPS, Step
from orderflow.saga.retry_budget import withheld
from tests.support.aws_like.rules import Rules
from tests.support.load import each_kind, quick
from tests.support.oracle import check
from tests.support.provider_process import in_background
from tests.support.system import KINDS, kind_id, until
from tests.support.world import BUILD, World, world_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.row(18)]

Kind = tuple[Workflow, EventBus]

_WATCHED = (Workflow.CHOREOGRAPHY, Workflow.ORCHESTRATION, Workflow.HYBRID)
"""Workflows whose owner resends; a state machine does so by itself."""

every_kind = pytest.mark.parametrize("kind", each_kind())
coordinated_elsewhere = pytest.mark.parametrize("kind", [k for k in KINDS if COORDINATOR[k[0]] != "order"], ids=kind_id)
every_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database, Rules(1)) as made:
        yield made


@contextmanager
def losing(world: World, *messages: type[Message]) -> Iterator[Counter[str]]:
    """The broker loses these messages, every time; yields how often, by name. A message that is sent again because its
    call failed is counted once."""
    lost: Counter[str] = Counter()
    seen: set[tuple[str, int]] = set()
    names = {name_of(message) for message in messages}
    send = world.broker.send

    def lose(channel: Channel, target: str, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        for envelope in (parcel.envelope for parcel in batch if parcel.envelope.name in names):
            lost[envelope.name] += (envelope.id, envelope.resend) not in seen
            seen.add((envelope.id, envelope.resend))
        rest = [parcel for parcel in batch if parcel.envelope.name not in names]
        return send(channel, target, rest) if rest else ()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.broker, "send", lose)
        yield lost


def place(world: World, kind: Kind, **changes: Any) -> str:
    return world.place(**changes, workflow=kind[0], event_bus=kind[1])


def wait(world: World, seconds: float) -> None:
    """Time passes, the owners check their orders, and everything that this causes happens."""
    world.pass_time(seconds)
    world.settle()


def ended(world: World, order_id: str) -> str:
    """The order's final status. It takes longer if a call of AWS has failed."""
    for _ in range(60):
        if not world.execute("order", "SELECT 1 FROM orders WHERE id = %s AND open", [order_id]):
            break
        wait(world, 10)
    return world.status(order_id)


@every_kind
@every_step
def test_a_reply_never_comes(world: World, step: Step, kind: Kind) -> None:
    """The step is done, but its reply is lost, however often the command is resent: the order is compensated at the
    deadline, not before. A resend that was not accepted at once restarts the clock."""
    with losing(world, step.success) as lost:
        order_id = place(world, kind)
        world.settle()
        failed = world.rules.failures
        for seconds in (10, 10, 20, 15):
            wait(world, seconds)
            assert world.status(order_id) in ("PLACED", "STOCK_RESERVED", "PAID")
        assert lost.total() > 2, "resent, and answered again"
        wait(world, 6)
        if world.rules.failures == failed:
            assert world.status(order_id) == "CANCELLED"
        assert ended(world, order_id) == "CANCELLED"
    check(world.urls, acknowledged=[order_id])
    assert world.parked() == []


@pytest.fixture
def thrifty(new_database: Callable[[str | None], str]) -> Iterator[World]:
    """A world whose owners may resend hardly anything."""
    with world_on(new_database, retry_budget=2) as made:
        yield made


@pytest.mark.parametrize("kind", [k for k in KINDS if k[0] in _WATCHED and k[1] is EventBus.SNS], ids=kind_id)
def test_a_retry_budget_that_is_used_up_holds_up_no_deadline(thrifty: World, kind: Kind) -> None:
    """Of many orders that get no reply, only a few are resent, and all are compensated in time."""
    owner, table = ("order", "order_log") if COORDINATOR[kind[0]] == "order" else ("orchestrator", "saga_log")
    before = withheld[owner,]
    with losing(thrifty, STEPS[0].success):
        orders = [place(thrifty, kind) for _ in range(12)]
        thrifty.settle()
        for seconds in (10, 10, 20, 15):
            wait(thrifty, seconds)
            assert {thrifty.status(order_id) for order_id in orders} == {"PLACED"}
        [(again,)] = thrifty.execute(owner, f"SELECT count(*) FROM {table} WHERE resend > 0")
        assert 2 <= again < len(orders)
        assert withheld[owner,] - before > len(orders)
        wait(thrifty, 6)
    assert {thrifty.status(order_id) for order_id in orders} == {"CANCELLED"}
    check(thrifty.urls, acknowledged=orders)


@coordinated_elsewhere
def test_the_confirmation_is_not_heard_of(world: World, kind: Kind) -> None:
    """The coordinator's deadline passes, and it asks the arbiter, whose decision is final: nothing is compensated."""
    with losing(world, OrderConfirmed) as lost:
        order_id = place(world, kind)
        world.settle()
        for seconds in (10, 10, 20, 15, 6, 10, *[10] * 20):
            if lost.total() <= 3:
                wait(world, seconds)
        assert lost.total() > 3
    active = "SELECT 1 FROM sagas WHERE order_id = %s AND active"
    for _ in range(60):
        if world.execute("orchestrator", active, [order_id]):
            wait(world, 10)
    assert world.status(order_id) == "CONFIRMED"
    assert not world.execute("orchestrator", active, [order_id])
    check(world.urls, acknowledged=[order_id])
    assert world.parked() == []


def asleep(world: World, seconds: float) -> None:
    """Everything is down for this long, and the broker forgets everything; then all starts, and the owners check."""
    for queue in world.broker.queues.values():
        queue.waiting.clear()
        queue.in_flight.clear()
    world.broker.machine.lose()
    for name, table in (("order", "orders"), ("orchestrator", "sagas")):
        times = ", ".join(f"{column} = {column} - make_interval(secs => %s)" for column in ("next_at", "progress_at"))
        world.execute(name, f"UPDATE {table} SET {times}", [seconds, seconds])
    for name in BUILD:
        world.restart(name)
    for _ in range(3):
        for owner in ("order", "orchestrator"):
            world.sweep(owner, resumed=0)
        world.settle()
    world.relay()
    world.settle()


@every_kind
@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_a_deadline_that_passed_while_its_owner_was_away(world: World, rounds: int, kind: Kind) -> None:
    """Everything is down for an hour with an order in flight: it continues, and nothing is compensated."""
    order_id = place(world, kind)
    for _ in range(rounds):
        for name in BUILD:
            world.publish(name)
            world.deliver(name)
    asleep(world, 3600)
    assert ended(world, order_id) == "CONFIRMED"
    check(world.urls, acknowledged=[order_id])


@every_kind
@every_step
def test_a_reply_that_does_not_come_after_that_either(world: World, step: Step, kind: Kind) -> None:
    """Then the deadline passes, a little later, and the order is compensated."""
    with losing(world, step.success) as lost:
        order_id = place(world, kind)
        world.settle()
        asleep(world, 3600)
        assert world.status(order_id) in ("PLACED", "STOCK_RESERVED", "PAID"), "resent once first"
        for _ in range(14):  # the deadline of a message that a failed call delayed starts when it was sent
            wait(world, 10)
        assert lost.total() > 1
    wait(world, 10)
    assert ended(world, order_id) == "CANCELLED"
    check(world.urls, acknowledged=[order_id])


@every_kind
@every_step
def test_an_undo_that_is_never_answered(world: World, step: Step, kind: Kind) -> None:
    """It is resent twenty times; then the order needs an operator, and stays so until one retries."""
    with world.rules.calmed():  # a command that arrives twice is answered twice
        never_answered(world, step, kind)


def never_answered(world: World, step: Step, kind: Kind) -> None:
    with losing(world, ShipmentScheduled, step.undone) as lost:
        order_id = place(world, kind)
        world.settle()
        assert world.cancel(order_id) == 202
        world.settle()
        while world.status(order_id) == "CANCELLING":
            assert lost[name_of(step.undone)] <= 21
            wait(world, 10)
        assert world.status(order_id) == "NEEDS_ATTENTION"
        assert lost[name_of(step.undone)] == 21
    check(world.urls, attention=[order_id])
    wait(world, 10)
    assert world.status(order_id) == "NEEDS_ATTENTION", "the order waits for an operator"
    an_operator_ends(world, order_id)
    assert retry(world, order_id) == 409
    assert world.parked() == []


def an_operator_ends(world: World, order_id: str) -> None:
    assert retry(world, order_id) == 202
    world.settle()
    wait(world, 0)
    assert ended(world, order_id) == "CANCELLED"
    check(world.urls, acknowledged=[order_id])


def retry(world: World, order_id: str) -> int:
    """Retries as an operator; returns the status code."""
    path, asked = f"/orders/{order_id}/retry", {"by": "ada", "why": "it answers again"}
    return int(world.http("order").post(path, json=asked).status_code)


@coordinated_elsewhere
@pytest.mark.parametrize("lost", [OrderRetryRequested, OrderNeedsAttention], ids=name_of)
def test_an_operator_is_called_until_one_is_heard(world: World, lost: type[Message], kind: Kind) -> None:
    """The order and its coordinator disagree about who waits for whom, because a message between them was lost: the
    coordinator answers the order's next reminder with it."""
    with losing(world, StockReleased), losing(world, lost) as losses:
        order_id = place(world, kind, payment_method="pm_card_declined")
        world.settle()
        for turn in range(400):
            wait(world, 10)
            if world.status(order_id) == "NEEDS_ATTENTION" and lost is OrderRetryRequested and not losses.total():
                assert retry(world, order_id) == 202
            if turn >= 100 and losses.total():
                break
        assert losses.total() >= 1
    for _ in range(12):  # a reminder may have been sent a moment ago
        wait(world, 60)
    assert world.status(order_id) == "NEEDS_ATTENTION"
    an_operator_ends(world, order_id)


CASES: dict[str, dict[str, Any]] = {
    "success": {},
    "declined": {"payment_method": "pm_card_declined"},
    "undeliverable": {"postal_code": "00000"},
}
BLOCKED = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def cancelled_at(world: World, order_id: str, point: str, nth: int) -> int | None:
    """The status code of a cancellation that comes while a service is held at `point`, for the `nth` time; None if the
    point isn't reached that often. The service continues once the cancellation is done, or waits for it."""
    left = [nth]
    answers = []

    def cancel() -> None:
        left[0] -= 1
        if left[0] == 0:
            failpoints.disarm()
            answers.append(in_background(lambda: world.cancel(order_id)))
            until(lambda: answers[0].done() or world.execute("order", BLOCKED), 10)

    failpoints.arm(point, cancel)
    try:
        world.settle()
    finally:
        failpoints.disarm()
    return answers[0].result(10) if answers else None


EVERYWHERE = [(point, kind) for point in failpoints.POINTS for kind in KINDS]
IN_EACH_WORKFLOW = [
    (point, (workflow, EventBus.SNS))
    for point in ("commit.before", "publish.after", "call.after")
    for workflow in Workflow
]


@pytest.mark.parametrize(("point", "kind"), quick(EVERYWHERE, *IN_EACH_WORKFLOW))
def test_a_cancellation_at_every_boundary(world: World, measured: Callable[..., None], point: str, kind: Kind) -> None:
    """A cancellation while a service is held there, for the first, second … time: 202 means CANCELLED with everything
    compensated, 409 means CONFIRMED for good, whatever else is in flight."""
    answers: Counter[int] = Counter()
    for changes in CASES.values():
        for nth in range(1, 60):
            order_id = place(world, kind, **changes)
            code = cancelled_at(world, order_id, point, nth)
            world.settle()
            if code is None:
                break
            answers[code] += 1
            assert ended(world, order_id) == {202: "CANCELLED", 409: "CONFIRMED"}[code], (changes, nth)
    measured(cancelled=answers[202], too_late=answers[409])
    assert answers[202] > 0, f"{point} was never reached"
    check(world.urls)
    assert world.parked() == []
