"""One real system for all integration tests of a test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.system import System, running

SETTINGS = {
    # LocalStack continues the long poll of a consumer that has ended, and delivers messages to it: keep polls short.
    "LONG_POLL": "1",
    # Tests wait for such messages and for restarted parts: short times, but longer than any provider takes.
    "VISIBILITY": "10",
    "HEARTBEAT": "3",
    "LEASE": "4",
    "FAILURES_UNTIL_PARKED": "3",
    "PROVIDER_TIMEOUT": "1",
    "RESEND_AFTER": "5,10,20",
    "UNDO_RESEND_EVERY": "5",
    "WEB_THREADS": "16",
}


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """All five services, LocalStack and PostgreSQL, as `orderflow up` runs them. Each test leaves it intact."""
    with running(tmp_path_factory.mktemp("system"), SETTINGS) as made:
        yield made
