"""The retry budget: a burst, a share of the traffic, more where it helps; when an open order is looked at next."""

from __future__ import annotations

import pytest

from orderflow.saga.retry_budget import RetryBudget, next_look, withheld
from orderflow.settings import Settings


class Clock:
    """Stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(budget: RetryBudget, wanted: int) -> int:
    """How many of so many are given."""
    return sum(budget.take() for _ in range(wanted))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> RetryBudget:
    return RetryBudget("unit", 100, now=clock)


def test_a_burst_then_one_percent_a_second(budget: RetryBudget, clock: Clock) -> None:
    before = withheld["unit",]
    assert taken(budget, 150) == 100
    assert withheld["unit",] - before == 50
    clock.now += 7
    assert taken(budget, 150) == 7
    clock.now += 3600
    assert taken(budget, 150) == 100, "never more than its size"


def test_a_backlog_is_asked_after_once_in_forty(budget: RetryBudget) -> None:
    """What comes forward by what was sent first pays for little."""
    taken(budget, 100)
    given = 0
    for _ in range(4000):
        budget.record_progress(helped=False)
        given += taken(budget, 3)
    assert given == pytest.approx(100, abs=1)


def test_after_a_loss_as_many_as_help(budget: RetryBudget) -> None:
    """Each answer pays for two more: 2,000 lost orders are asked in a few rounds."""
    lost, rounds = 2000, 0
    while lost:
        asked = min(lost, taken(budget, lost))
        lost -= asked
        rounds += 1
        for _ in range(asked):
            budget.record_progress(helped=True)
        assert asked, "it continues"
    assert rounds == 20, "never more than its size at once"


TIMES = (10.0, 20.0, 40.0)


@pytest.mark.parametrize(
    ("waited", "sends", "earliest", "latest"),
    [
        (10, 1, 10, 10),
        (20, 2, 16, 20),
        (40, 3, 20, 20),
        (35, 1, 10, 10),  # later than its second time: not at once all the same
        (55, 2, 5, 5),  # its deadline comes before
        (75, 0, 10, 10),  # its deadline is over and could not fire: not at once again all the same
        (75, 3, 10, 10),
    ],
)
def test_the_next_look(waited: float, sends: int, earliest: float, latest: float) -> None:
    settings = Settings(aws_endpoint_url="http://memory", resend_after=TIMES, undo_after=60)
    found = [next_look(settings, waited, sends) for _ in range(50)]
    assert earliest <= min(found)
    assert max(found) <= latest
