"""ReserveStock and ReleaseStock: command → state and outcome, a batch at a time, unaware of the workflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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
from orderflow.database import Connection
from orderflow.outbox import Unit
from orderflow.processor import Incoming, Reply
from services.inventory import domain, models, reactions
from services.inventory.models import Reservation


class Inventory:
    """Inventory as an application of the kernel. Commands are idempotent by order: the reservation's row answers."""

    service = "inventory"
    whole_orders = False

    def accept(self, message: Message) -> Message | None:
        return reactions.react(message)

    def handle(self, unit: Unit, batch: Sequence[Incoming]) -> Sequence[Reply]:
        reserve = {m.order_id: m.message for m in batch if isinstance(m.message, ReserveStock)}
        release = [m.order_id for m in batch if isinstance(m.message, ReleaseStock)]
        outcomes: dict[str, Message] = {}
        if reserve:
            outcomes |= _reserve(unit.connection, reserve)
        if release:
            outcomes |= _release(unit.connection, release)
        return [[outcomes[m.order_id]] for m in batch]


def _reserve(connection: Connection, asked: dict[str, ReserveStock]) -> dict[str, Message]:
    needed = {order_id: domain.total((i.sku, i.quantity) for i in command.items) for order_id, command in asked.items()}
    found = models.find(connection, asked)
    stock = models.lock_stock(connection, [sku for pieces in needed.values() for sku in pieces])
    rows = found()
    fresh = [order_id for order_id in asked if order_id not in rows]
    if fresh:
        verdicts, taken = domain.decide([needed[order_id] for order_id in fresh], stock())
        decided = [
            Reservation(order_id, "rejected", {}, f"not enough stock of {', '.join(short)}"[:500])
            if short
            else Reservation(order_id, "reserved", needed[order_id], "")
            for order_id, short in zip(fresh, verdicts, strict=True)
        ]
        models.take(connection, dict(sorted(taken.items())))
        models.add(connection, decided)
        rows |= {r.order_id: r for r in decided}
    return {order_id: _answer(rows[order_id]) for order_id in asked}


def _answer(row: Reservation) -> Message:
    if row.state == "reserved":
        return StockReserved(items=_items(row))
    return StockRejected(reason=UNDONE if row.state == "released" else row.reason)


def _release(connection: Connection, order_ids: list[str]) -> dict[str, Message]:
    rows = models.find(connection, order_ids)()
    given_back = Counter[str]()
    for row in rows.values():
        if row.state == "reserved":
            given_back.update(row.pieces)
    if given_back:
        models.lock_stock(connection, given_back)()
        models.take(connection, {sku: -n for sku, n in sorted(given_back.items())})
    models.release(connection, rows)
    tombstones = [Reservation(order_id, "released", {}, "") for order_id in order_ids if order_id not in rows]
    if tombstones:
        models.add(connection, tombstones)
    return {order_id: StockReleased(items=_items(rows[order_id]) if order_id in rows else ()) for order_id in order_ids}


def _items(row: Reservation) -> tuple[Item, ...]:
    return tuple(Item(sku=sku, quantity=quantity) for sku, quantity in row.pieces.items())
