"""FAULTS row 34, and many other rows' faults at once, on a real system: a proxy in front of LocalStack makes it behave
as AWS's documentation says (`tests.support.aws_like.proxy`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from orderflow.contracts import EventBus, Workflow
from orderflow.routing import SERVICES
from tests.support.aws_like import proxy
from tests.support.aws_like.rules import USUAL, Behaviour, Rules
from tests.support.load import Load
from tests.support.system import System, overridden

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("faults-system")]

EXPIRED_S = 8.0
"""Seconds for which credentials are invalid."""


@contextmanager
def aws_like(system: System, rules: Rules) -> Iterator[None]:
    """All services reach their broker through one proxy."""
    with (
        proxy.before(system.url("localstack"), rules) as url,
        overridden(system, {service: {"AWS_ENDPOINT_URL": url} for service in SERVICES}),
    ):
        yield


@pytest.mark.row(34)
def test_a_bad_day_at_aws(
    system: System, seed: int, kinds: tuple[tuple[Workflow, EventBus], ...], measured: Callable[..., None]
) -> None:
    """Messages arrive twice, late, in any order and few at a time; calls are throttled, fail, or lose their answers;
    and all credentials expire for a while. No order is lost or done twice, and no message is dead-lettered."""
    rules = Rules(seed)
    with aws_like(system, rules):
        with Load(system, kinds, rate=4, total=60, seed=seed) as load:
            load.until_taken(20)
            rules.expire()
            time.sleep(EXPIRED_S)
            rules.renew()
            renewed = time.monotonic()
            taken = load.finish()
        system.until_terminal(*taken)
        measured(orders=len(taken), terminal_s=round(time.monotonic() - renewed, 1))
        measured(**{what.name.lower(): n for what, n in rules.fired.items() if n})
        system.check(acknowledged=taken)
        system.no_dead_letters()
    expected = USUAL.keys() - {Behaviour.FALSE_EMPTY, Behaviour.SPENT_TOKEN, Behaviour.DELAY} | {Behaviour.EXPIRED}
    assert not {what for what in expected if not rules.fired[what]}, rules.fired
