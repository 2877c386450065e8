"""One failing test must not make the next ones fail."""

from __future__ import annotations

import pytest

from tests.support import parts
from tests.support.system import KINDS, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("faults-system")]


def test_what_is_left_in_the_middle_is_gone(system: System) -> None:
    """Orders of every kind are in flight, as after a failed test: after `clean`, nothing of them returns."""
    parts.stop(system.runtime, "payment")
    for kind in KINDS:
        system.place(kind)
    system.clean()
    assert system.all_ready()
    after = [system.place(kind) for kind in KINDS]
    assert set(system.until_terminal(*after)) == {"CONFIRMED"}
    assert system.sql("order", "SELECT count(*) FROM orders") == [(len(after),)]
    assert system.sql("orchestrator", "SELECT order_id::text FROM sagas WHERE order_id <> ALL(%s::uuid[])", after) == []
    system.check(acknowledged=after)
    system.no_dead_letters()
