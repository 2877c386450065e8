"""FAULTS row 18: a cancellation while some service is held at a boundary, at every one, in every workflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from orderflow import failpoints
from orderflow.contracts import (
    EventBus,
    Workflow,
)
from tests.support.load import quick
from tests.support.oracle import check
from tests.support.sagas import (
    Kind,
    ended,
    place,
)
from tests.support.system import KINDS, until
from tests.support.threads import in_background
from tests.support.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.row(18)]


CASES: dict[str, dict[str, Any]] = {
    "success": {},
    "declined": {"payment_method": "pm_card_declined"},
    "undeliverable": {"postal_code": "00000"},
}


BLOCKED = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def cancelled_at(world: World, order_id: str, point: str, nth: int) -> int | None:
    """The status code of a cancellation that comes while some service is held at `point`, for the `nth` time; None if
    it isn't reached so often. The service continues once the cancellation is done, or waits for it."""
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
    """While a service is held there, for the first, second … time: 202 means CANCELLED with everything given back, 409
    that it is CONFIRMED and stays so. Whatever else is under way."""
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
