"""Handles ReserveStock and ReleaseStock, a batch at a time: each command changes state and has an outcome.

The handlers don't know which workflow an order runs under.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orderflow.contracts import (
    UNDONE,
    Item,
    Message,
    ReleaseStock,
    ReserveStock,
    StockRejected,
    StockReleased,
    StockReserved,
)
from orderflow.database import Connection, Database
from orderflow.database.holders import Need
from orderflow.messaging.application import Incoming, Reply
from orderflow.messaging.outbox import UnitOfWork
from services.inventory import domain, models, reactions
from services.inventory.models import Reservation


class Inventory:
    """Inventory as an application of the kernel. Commands are idempotent per order: a repeated command is answered from
    the reservation's row."""

    service = "inventory"
    whole_orders = False

    def accept(self, message: Message) -> Message | None:
        return reactions.react(message)

    def needs(self, database: Database, batch: Sequence[Incoming]) -> Iterable[Need]:
        reserved = models.reserved(database, [m.order_id for m in batch if isinstance(m.message, ReleaseStock)])
        for m in batch:
            yield Need(m.order_id, models.RESERVATIONS, m.order_id)
            asked = m.message.items if isinstance(m.message, ReserveStock) else ()
            for sku in {*(item.sku for item in asked), *reserved.get(m.order_id, ())}:
                yield Need(m.order_id, models.STOCK, sku)

    def handle(self, unit: UnitOfWork, batch: Sequence[Incoming]) -> Sequence[Reply]:
        reserve = {
            m.order_id: domain.total((i.sku, i.quantity) for i in m.message.items)
            for m in batch
            if isinstance(m.message, ReserveStock)
        }
        release = [m.order_id for m in batch if isinstance(m.message, ReleaseStock)]
        rows = _change(unit.connection, reserve, release)
        return [[_answer(rows[m.order_id], released=m.order_id not in reserve)] for m in batch]


def _change(connection: Connection, reserve: dict[str, dict[str, int]], release: list[str]) -> dict[str, Reservation]:
    """Decides new reservations and turns those to be released into tombstones; returns the rows of all orders.

    All batches take their locks in the same sequence, so that they can't deadlock: first reservations, then stock, each
    in key order, and last the new rows.
    """
    find = models.find(connection, [*reserve, *release])
    held = [row for order_id in release if (row := find().get(order_id)) and row.state == "reserved"]
    pieces = [*reserve.values(), *(row.pieces for row in held)]
    stock = models.lock_stock(connection, [sku for needed in pieces for sku in needed])
    rows = dict(find())
    fresh = [order_id for order_id in reserve if order_id not in rows]
    verdicts, taken = domain.decide([reserve[order_id] for order_id in fresh], stock() if fresh else {})
    new = [_decided(order_id, reserve[order_id], short) for order_id, short in zip(fresh, verdicts, strict=True)]
    new += [Reservation(order_id, "released", {}, "") for order_id in release if order_id not in rows]
    for row in held:
        for sku, quantity in row.pieces.items():
            taken[sku] = taken.get(sku, 0) - quantity
    models.take(connection, dict(sorted(taken.items())))
    models.release(connection, [order_id for order_id in release if order_id in rows])
    models.add(connection, new)
    return rows | {row.order_id: row for row in new}


def _decided(order_id: str, needed: dict[str, int], short: list[str]) -> Reservation:
    if short:
        return Reservation(order_id, "rejected", {}, f"not enough stock of {', '.join(short)}"[:500])
    return Reservation(order_id, "reserved", needed, "")


def _answer(row: Reservation, *, released: bool) -> Message:
    if released:
        return StockReleased(items=_items(row))
    if row.state == "reserved":
        return StockReserved(items=_items(row))
    return StockRejected(reason=UNDONE if row.state == "released" else row.reason)


def _items(row: Reservation) -> tuple[Item, ...]:
    return tuple(Item(sku=sku, quantity=quantity) for sku, quantity in row.pieces.items())
