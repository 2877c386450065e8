"""orderflow as a side of a comparison: its HTTP API, its own counters, and its order database's clock."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg

from lab import metrics
from lab.lines import Child, LabProblem
from lab.system import Counts, Loop, Placed, System
from lab.workload import ITEMS, Variant, request_body
from orderflow.contracts import MAX_QUANTITY

_STOCK: Final = 3
"""Millions of pieces added of each SKU, so that no order of a run is refused."""

_DECIDED: Final = """
SELECT o.id::text, o.status, extract(epoch FROM o.created_at)::float8,
    extract(epoch FROM min(l.at) FILTER (WHERE l.type IN ('OrderConfirmed', 'OrderCancelled')))::float8
FROM orders o LEFT JOIN order_log l ON l.order_id = o.id
WHERE o.id = ANY(%s::uuid[]) GROUP BY o.id
"""
"""From the transaction that accepted the order to the log line of the one that decided it, both by the database's
clock. `updated_at` won't do: messages that arrive after the decision change it."""


class Orderflow:
    """See `Side`."""

    name = "orderflow"

    def __init__(self, system: System, *, clients: int, restock: bool = True) -> None:
        """Starts the generator and restocks every SKU. Raises LabProblem."""
        self._system = system
        self._generator = Child("generator", "lab.load.generator", (), system.folder / "generator.log")
        try:
            if restock:
                _restock(system)
            address = urlsplit(system.url("order"))
            self._generator.ask(
                "connect",
                host=address.hostname,
                port=address.port,
                database=system.database("order"),
                clients=clients,
            )
        except LabProblem:
            self.close()
            raise

    def begin(self, variant: Variant, in_flight: int, pause: float) -> None:
        self._generator.ask("begin", body=request_body(variant), in_flight=in_flight, pause=pause)

    def completed(self) -> int:
        return int(self._generator.ask("completed"))

    def end(self, limit: float) -> Loop:
        ended = self._generator.ask("end", limit=limit, timeout=limit + 60)
        client = {order_id: (asked, answered) for order_id, asked, answered in ended["orders"]}
        decided = [row for row in self._decided(list(client)) if row[3] is not None]
        return Loop(
            [Placed(accepted, at, *client[i]) for i, status, accepted, at in decided if status == "CONFIRMED"],
            int(ended["unfinished"]),
            sum(status != "CONFIRMED" for _, status, _, _ in decided),
            list(ended["errors"]),
        )

    def counts(self) -> Counts:
        return metrics.read(self._system)

    def pids(self) -> Mapping[str, int]:
        return dict(self._system.pids()) | {"generator": self._generator.pid}

    def close(self) -> None:
        """Ends the generator."""
        self._generator.end()

    def _decided(self, order_ids: list[str]) -> list[Any]:
        try:
            with psycopg.connect(self._system.database("order")) as connection:
                return connection.execute(_DECIDED, [order_ids]).fetchall()
        except psycopg.Error as error:
            raise LabProblem(f"the order database doesn't say when orders were decided: {error}") from error


def _restock(system: System) -> None:
    for sku in [sku for sku, _ in ITEMS] * _STOCK:
        request = urllib.request.Request(  # noqa: S310 - our own system, on loopback
            f"{system.url('inventory')}/stock/{sku}/restock",
            json.dumps({"quantity": MAX_QUANTITY}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            raise LabProblem(f"inventory refused to restock {sku}: {error.read()[:300]!r}") from error
        except OSError as error:
            raise LabProblem(f"inventory doesn't accept stock of {sku}: {error}") from error
