"""The statements over inventory's tables (their schema: `migrations/`), each for a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Final

from orderflow.database import Connection, Database
from orderflow.database.holders import Rows
from orderflow.database.partitions import BUSINESS, Partitioned

KEPT: Final = (
    Partitioned("reservations", "order_id", by_id=True, keep=None, width=BUSINESS, storage="fillfactor = 85"),
)

START: Final[Mapping[str, int]] = {
    "BOOK-1": 100_000,
    "MUG-1": 100_000,
    "LAMP-1": 100_000,
    "RARE-1": 100,
    "SOLDOUT-1": 0,
}
"""Pieces of each SKU at the start."""


RESERVATIONS: Final = Rows("reservations", "order_id")
STOCK: Final = Rows("stock", "sku", "text")

MOST: Final = 2_000_000_000
"""Pieces of one SKU at most; its columns hold no more."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """An order's stock. `released` is final: the tombstone that keeps a late ReserveStock out."""

    order_id: str
    state: str
    pieces: dict[str, int]
    reason: str


# For each id, not `= ANY(array)`: so a prepared plan finds the one partition of each when it is executed.
_FIND: Final = b"""
SELECT found.* FROM unnest(%s::uuid[]) AS asked(o) CROSS JOIN LATERAL (
    SELECT order_id::text, state, skus, quantities, reason FROM reservations WHERE order_id = asked.o FOR UPDATE
) AS found
"""
_STOCK: Final = b"SELECT sku, available FROM stock WHERE sku = ANY(%s) ORDER BY sku FOR UPDATE"
_TAKE: Final = b"""
UPDATE stock SET available = available - taken.n, reserved = reserved + taken.n
FROM unnest(%s::text[], %s::int[]) AS taken(sku, n) WHERE stock.sku = taken.sku
"""
_ADD: Final = b"""
INSERT INTO reservations (order_id, state, skus, quantities, reason)
SELECT o, s, coalesce(string_to_array(nullif(k, ''), ','), '{}'),
    coalesce(string_to_array(nullif(q, ''), ','), '{}')::int[], r
FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[]) AS decided(o, s, k, q, r) ORDER BY o
"""
_RELEASE: Final = b"""
UPDATE reservations SET state = 'released', updated_at = now()
FROM unnest(%s::uuid[]) AS asked(o) WHERE order_id = asked.o AND state <> 'released'
"""
_RESTOCK: Final = b"""
UPDATE stock SET available = available + %s WHERE sku = %s AND available + reserved <= %s::int - %s::int
RETURNING sku, available, reserved
"""
_RESERVED: Final = """
SELECT order_id::text, skus FROM reservations WHERE order_id = ANY(%s::uuid[]) AND state = 'reserved'
"""
_RESERVATION: Final = """
SELECT order_id::text, state, skus, quantities, reason, created_at, updated_at
FROM reservations WHERE order_id = %s::uuid
"""


def find(connection: Connection, order_ids: Iterable[str]) -> Callable[[], dict[str, Reservation]]:
    """Locks the reservations of orders. Sent now and read at the first call: other statements share the round trip."""
    rows = connection.execute(_FIND, [sorted(order_ids)])
    return cache(
        lambda: {row[0]: Reservation(row[0], row[1], dict(zip(row[2], row[3], strict=True)), row[4]) for row in rows}
    )


def reserved(database: Database, order_ids: Sequence[str]) -> dict[str, list[str]]:
    """The SKUs that orders hold pieces of; nothing is locked."""
    return dict(database.query(_RESERVED, [list(order_ids)])) if order_ids else {}


def lock_stock(connection: Connection, skus: Iterable[str]) -> Callable[[], dict[str, int]]:
    """Locks the stock of SKUs in key order; gives the available pieces. Unknown SKUs are left out. Read at the call."""
    rows = connection.execute(_STOCK, [sorted(set(skus))])
    return lambda: {row[0]: row[1] for row in rows}


def take(connection: Connection, pieces: Mapping[str, int]) -> None:
    """Moves pieces from available to reserved (back, where negative)."""
    if pieces:
        connection.execute(_TAKE, [list(pieces), list(pieces.values())])


def add(connection: Connection, decided: Sequence[Reservation]) -> None:
    """Stores decisions on new orders. Raises UniqueViolation where another process was first."""
    if not decided:
        return
    connection.execute(
        _ADD,
        [
            [r.order_id for r in decided],
            [r.state for r in decided],
            [",".join(r.pieces) for r in decided],
            [",".join(map(str, r.pieces.values())) for r in decided],
            [r.reason for r in decided],
        ],
    )


def release(connection: Connection, order_ids: Sequence[str]) -> None:
    """Turns reservations into tombstones."""
    if order_ids:
        connection.execute(_RELEASE, [list(order_ids)])


Stock = tuple[str, int, int]
"""SKU, available, reserved."""


def list_stock(database: Database) -> list[Stock]:
    """All SKUs in order."""
    return [
        (row[0], row[1], row[2]) for row in database.query("SELECT sku, available, reserved FROM stock ORDER BY sku")
    ]


def stock_of(database: Database, sku: str) -> Stock | None:
    """One SKU; None if it is unknown."""
    rows = database.query("SELECT sku, available, reserved FROM stock WHERE sku = %s", [sku])
    return (rows[0][0], rows[0][1], rows[0][2]) if rows else None


def restock(connection: Connection, sku: str, quantity: int) -> Stock | None:
    """Adds pieces; None if the SKU is unknown or would have more than `MOST` pieces."""
    rows = connection.execute(_RESTOCK, [quantity, sku, MOST, quantity]).fetchall()
    return (rows[0][0], rows[0][1], rows[0][2]) if rows else None


def is_sold(connection: Connection, sku: str) -> bool:
    """Whether there is such a SKU."""
    return bool(connection.execute(b"SELECT 1 FROM stock WHERE sku = %s", [sku]).fetchall())


def reservation(database: Database, order_id: str) -> tuple[Reservation, datetime, datetime] | None:
    """An order's reservation, with when it was made and changed; None if there is none."""
    rows = database.query(_RESERVATION, [order_id])
    if not rows:
        return None
    found, state, skus, quantities, reason, created_at, updated_at = rows[0]
    return Reservation(found, state, dict(zip(skus, quantities, strict=True)), reason), created_at, updated_at
