"""State that several threads of a process share, with the other thread exactly where it does harm."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from orderflow.database import Database
from orderflow.messaging.outbox import Outbox
from orderflow.settings import Settings
from services.order.placement import Placing
from simulator.faults import FaultBox, Faults
from tests.support.threads import in_background


class Emptied(deque[str]):
    """Another thread takes the rest as soon as its length has been asked for."""

    def __len__(self) -> int:
        found = super().__len__()
        self.clear()
        return found


def test_what_was_sent_is_taken_by_several_threads_at_once(new_database: Callable[[str | None], str]) -> None:
    """Whoever finds nothing left continues with its own transaction."""
    database = Database(new_database("inventory"), size=2)
    database.open()
    try:
        outbox = Outbox(database, lease=60)
        outbox._sent = Emptied(["1b4e28ba-2fa1-11d2-883f-0016d3cca427"])
        with outbox.transaction() as unit:
            assert unit.connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        database.close()


def test_prices_are_asked_for_by_requests_side_by_side() -> None:
    """With the database away each waits for its timeout; one after the other, the last would wait for all of them."""
    both = threading.Barrier(2)

    def query(statement: str) -> Sequence[Any]:
        both.wait(10)
        return []

    placing = Placing(
        Settings(aws_endpoint_url="http://127.0.0.1:9"),
        cast(Database, SimpleNamespace(query=query)),
        cast(Outbox, SimpleNamespace()),
    )
    assert [asked.result(15) for asked in [in_background(placing.products) for _ in range(2)]] == [{}, {}]


def test_faults_that_are_set_while_they_are_read_are_not_overwritten() -> None:
    """The call that has read the old ones comes second."""
    new = Faults(outage=True)

    def read_before_they_are_set(provider: str) -> tuple[float, float, bool]:
        box.set(new)
        return (0.0, 0.0, False)

    ledger = SimpleNamespace(faults=read_before_they_are_set, set_faults=lambda *_, **__: None)
    box = FaultBox(cast(Any, ledger), "payment", timeout=1)
    assert box.get() == new
