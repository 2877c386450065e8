"""The part of the full-size run that CI runs with every change: a different part each day, about three minutes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

from orderflow import failpoints
from tests.support.system import KINDS, kind_id

_CRASHES: Final = tuple(
    tuple(
        f"tests/faults/test_crashes.py::test_a_crash_at_a_boundary_costs_nothing[50-{point}-{kind_id(kind)}]"
        for point in failpoints.POINTS[first : first + 2]
        for kind in KINDS
    )
    for first in range(0, len(failpoints.POINTS), 2)
)
"""Row 2, two boundaries per day."""

PARTS: Final[Sequence[Sequence[str]]] = (
    ("tests/faults/test_messages.py", "tests/faults/test_deploys.py::test_older_and_newer_work_together"),
    ("tests/faults/test_visibility.py", "tests/contract/test_inventory.py", "tests/component/test_publisher.py",
     "tests/component/test_publisher_batches.py"),
    ("tests/faults/test_clocks.py::test_no_lease_is_stolen",
     "tests/faults/test_repeats.py::test_every_message_comes_many_times[seed1-all-160]"),
    ("tests/faults/test_processes.py::test_random_processes_are_killed[seed1-all-1000]",),
    ("tests/faults/test_processes.py::test_frozen_within_a_provider_call",),
    ("tests/faults/test_broker.py::test_the_broker_is_silent_for_a_while[seed1-all-30]",),
    ("tests/faults/test_broker.py::test_the_broker_is_wiped[seed1-all-3]",),
    ("tests/faults/test_databases.py::test_a_database_is_unavailable[seed1-30-order]",
     "tests/faults/test_databases.py::test_connections_are_cut",
     "tests/faults/test_hanging.py::test_connections_hang[seed1]"),
    ("tests/faults/test_providers.py::test_slow_and_failing_now_and_then[seed1-all-400]",),
    ("tests/faults/test_fuzz_requests.py::test_no_request_breaks_a_service[seed1-inventory-10000]",),
    ("tests/faults/test_processes.py::test_rolling_restart[seed1-all]",
     "tests/faults/test_deploys.py::test_rolling_deploy[seed1-all-newer-version-producers-first]"),
    *_CRASHES,
)  # fmt: skip
"""Tests that have passed several times in a row at full size, in parts of about three minutes."""


def of_the_day(day: date) -> Sequence[str]:
    """The part of a day, the same for everybody."""
    return PARTS[day.toordinal() % len(PARTS)]
