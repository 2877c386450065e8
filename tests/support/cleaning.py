"""Resets a running system to its state before the first test: no orders, no messages, the full stock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from orderflow.routing import SERVICES
from services.inventory.models import START
from tests.support import parts
from tests.support.oracle import complaints

if TYPE_CHECKING:
    from tests.support.system import System

_KEPT: Final = "{alembic_version,products,stock,faults,counters}"
"""Tables whose rows don't belong to orders."""


def clean(system: System) -> None:
    """Deletes what an earlier test left behind, if it left anything inconsistent.

    A test that failed may have left orders in flight. Whatever still works on them would write into tables that have
    been emptied, and the next test would be blamed. Therefore the services are stopped meanwhile, and executions are
    ended."""
    dead_letters = [queue for queue, count in system.dead_letters().items() if count]
    if not (complaints(system.databases) or system.waiting() or dead_letters):
        return
    if busy := bool(system.open_orders() or system.waiting() or _executions(system)):
        for service in SERVICES:
            parts.stop(system.runtime, service)
        for execution in _executions(system):
            system.aws("stepfunctions").stop_execution(executionArn=execution)
    while not _purged(system):
        pass  # messages that are still inside the broker arrive after a purge
    found = "SELECT relname FROM pg_stat_user_tables WHERE NOT relname = ANY(%s::text[])"
    for database in system.databases:
        tables = [name for (name,) in system.sql(database, found, _KEPT)]
        system.sql(database, f"TRUNCATE {', '.join(tables)}")
    for sku, pieces in START.items():
        system.sql("inventory", "UPDATE stock SET available = %s, reserved = 0 WHERE sku = %s", pieces, sku)
    if busy:
        system.runtime.up()
        system.until_ready()


def _purged(system: System) -> bool:
    """Empties the queues; returns whether all were empty already."""
    full = [*system.waiting(), *(queue for queue, count in system.dead_letters().items() if count)]
    for queue in full:
        system.aws("sqs").purge_queue(QueueUrl=system.queue(queue))
    return not full


def _executions(system: System) -> list[str]:
    """The running executions of the state machine."""
    client: Any = system.aws("stepfunctions")
    return [
        execution["executionArn"]
        for machine in client.list_state_machines()["stateMachines"]
        for page in client.get_paginator("list_executions").paginate(
            stateMachineArn=machine["stateMachineArn"], statusFilter="RUNNING"
        )
        for execution in page["executions"]
    ]
