"""One real system for all integration tests of a test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.system import System, running

SETTINGS = {
    # LocalStack goes on with the long poll of a consumer that has gone, and hands it messages: keep that short.
    "LONG_POLL": "1",
    "WEB_THREADS": "16",
}


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """All five services, LocalStack and PostgreSQL, as `orderflow up` runs them. Each test leaves it whole."""
    with running(tmp_path_factory.mktemp("system"), SETTINGS) as made:
        yield made
