"""FAULTS row 12: a handler takes three times its message's visibility timeout, with and without its heartbeat. On real
processes and queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orderflow.contracts import EventBus, Workflow
from tests.support import parts
from tests.support.load import quick
from tests.support.processes import apply, workers
from tests.support.system import System, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("faults-system"), pytest.mark.row(12)]

VISIBILITY = 3
TAKES = 3 * VISIBILITY

SETTINGS = {"VISIBILITY": str(VISIBILITY), "HEARTBEAT": "1", "PROVIDER_TIMEOUT": str(TAKES + 1)}
HEARTBEAT_KILLED = (
    "import orderflow.messaging.consumer; orderflow.messaging.consumer.Consumer.extend_visibility = lambda self: None"
)

SLOW_HANDLER = f"""
CREATE FUNCTION ponder() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep({TAKES}); RETURN NEW; END $$;
CREATE TRIGGER ponder BEFORE INSERT ON reservations FOR EACH ROW EXECUTE FUNCTION ponder()
"""
AT_IT = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = 'orderflow_inventory' AND state = 'active' AND (wait_event = 'PgSleep' OR wait_event_type = 'Lock')
"""
"""Transactions that handle the message, or wait for one that does."""


@contextmanager
def slow(system: System, service: str) -> Iterator[None]:
    """Inventory's transaction, or payment's call outside of one, is slow; and nobody resends anything."""
    apply(system, overrides={"order": {"RESEND_AFTER": "40,50,60"}})
    if service == "inventory":
        system.sql("inventory", SLOW_HANDLER)
    else:
        system.http.put(system.url(service, "/simulator/faults"), json={"latency": TAKES}).raise_for_status()
    parts.stop(system.runtime, service)
    try:
        yield
    finally:
        if service == "inventory":
            system.sql("inventory", "DROP TRIGGER ponder ON reservations; DROP FUNCTION ponder")
        else:
            system.sql("providers", "UPDATE faults SET latency = 0")
        system.runtime.up()


@pytest.mark.parametrize(
    ("service", "killed"),
    quick(
        [(service, killed) for service in ("inventory", "payment") for killed in (True, False)],
        ("inventory", True),
    ),
)
def test_a_handler_outlasts_its_visibility(
    system: System, tmp_path: Path, service: str, killed: bool, measured: Callable[..., None]
) -> None:
    """Two processes of a service. Without its heartbeat the message becomes visible while it is being handled, and the
    second process receives it too; with the heartbeat nobody else gets it. There is one effect in any case."""
    log = tmp_path / "workers.log"
    before = HEARTBEAT_KILLED if killed else "pass"
    with slow(system, service), workers(system, service, log, SETTINGS, SETTINGS, before=before):
        until(lambda: log.read_text().count('"starting"') >= 2)
        order_id = system.place((Workflow.CHOREOGRAPHY, EventBus.SNS))
        at_it = 0

        def ended() -> bool:
            nonlocal at_it
            if service == "inventory":
                at_it = max(at_it, system.sql("inventory", AT_IT)[0][0])
            return system.order(order_id)["status"] == "CONFIRMED"

        until(ended, what=lambda: system.story(order_id))
        system.check(acknowledged=[order_id])
    if service == "payment":
        at_it = 1 + ("another process is at the charge" in log.read_text())
    measured(processes_at_it=at_it)
    assert at_it == (2 if killed else 1)
    assert system.ledger(order_id) == ["charge", "shipment"]
    assert system.sql("payment", "SELECT state, fence FROM payments WHERE order_id = %s", order_id) == [("done", 1)]
    system.no_dead_letters()
