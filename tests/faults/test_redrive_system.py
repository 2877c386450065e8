"""FAULTS row 10 on a real system, over SQS and HTTP; in one process it is in `test_redrive.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import pytest

from orderflow.routing import SERVICES
from tests.faults.test_redrive import FAIL, LATER, MEND, WHO, Kind
from tests.support import parts
from tests.support.load import sizes
from tests.support.system import System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.row(10)]

FAIL_FIRST: Final = FAIL.replace("UPDATE", "INSERT").replace("'done'", "'intended'")
"""The handler fails before it has called anything. (If it fails after the charge, the intent's lease makes each attempt
wait so long that the owners compensate the order before the fifth; `test_redrive.py` plays that in one process.)"""


def peek(system: System, service: str, number: int) -> list[str]:
    """The bodies of this many messages in a service's queue, which has no consumer. They stay in the queue."""
    found: dict[str, str] = {}

    def enough() -> bool:
        answer = system.aws("sqs").receive_message(
            QueueUrl=system.queue(service), MaxNumberOfMessages=10, VisibilityTimeout=2, WaitTimeSeconds=1
        )
        found.update({message["MessageId"]: message["Body"] for message in answer.get("Messages", ())})
        return len(found) >= number

    until(enough, what=lambda: f"{len(found)} of {number}")
    return list(found.values())[:number]


def redrive_all_of(system: System, service: str) -> int:
    """Redrives until none is left; returns how many were sent."""
    count = 0
    while True:
        answer = system.http.post(system.url(service, "/dlq/redrive"), json=WHO | {"all": True})
        assert answer.status_code == 200, answer.text
        count += len(answer.json()["settled"])
        if not answer.json()["left"]:
            return count


@pytest.mark.extra
@pytest.mark.xdist_group("faults-system")
@pytest.mark.parametrize("number", sizes(16, 100))
def test_redriven_long_after_on_a_real_system(
    system: System, kinds: tuple[Kind, ...], number: int, measured: Callable[..., None]
) -> None:
    """The same for payment's queue, over SQS and HTTP: messages that it had handled, and those that it could not."""
    parts.stop(system.runtime, "payment")
    done = [system.place(kinds[n % len(kinds)]) for n in range(number)]
    bodies = peek(system, "payment", number)
    parts.start(system.runtime, "payment")
    ended = system.until_terminal(*done)
    before = [system.ledger(order_id) for order_id in done]
    system.sql("payment", FAIL_FIRST)
    try:
        stuck = [system.place(kinds[n % len(kinds)]) for n in range(number)]
        until(lambda: system.depth("payment-dlq") >= number, what=lambda: system.depth("payment-dlq"))
    finally:
        system.sql("payment", MEND)
    system.send("payment-dlq", *bodies)
    for service in SERVICES:
        system.sql(service, "TRUNCATE inbox")
    for database, statement in LATER.items():
        system.sql(database, statement)
    letters = redrive_all_of(system, "payment")
    assert letters >= 2 * number
    statuses = Counter(system.until_terminal(*stuck))
    measured(letters=letters, in_the_end=dict(statuses))
    assert statuses.keys() <= {"CONFIRMED", "CANCELLED"}
    system.check(acknowledged=[*done, *stuck])
    assert system.until_terminal(*done) == ended
    assert [system.ledger(order_id) for order_id in done] == before, "no second effect"
    system.no_dead_letters()
