"""Inventory over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from flask import Blueprint
from pydantic import BaseModel, Field

from orderflow.contracts import MAX_QUANTITY, Item
from orderflow.errors import Problem
from orderflow.messaging.outbox import UnitOfWork
from orderflow.service import Service
from orderflow.web import Answer, RequestModel, Time, body, not_found, once, operation
from services.inventory import models


class StockAnswer(BaseModel):
    """The stock of a SKU in pieces: `available` ones are free, `reserved` ones are held by orders."""

    sku: str
    available: int
    reserved: int


class StockList(BaseModel):
    items: list[StockAnswer]


class RestockRequest(RequestModel):
    quantity: Annotated[int, Field(gt=0, le=MAX_QUANTITY)]


class ReservationAnswer(BaseModel):
    order_id: str
    state: Literal["reserved", "rejected", "released"] | str
    """A newer release may have more states."""
    items: list[Item]
    reason: str
    created_at: Time
    updated_at: Time


def blueprint(service: Service) -> Blueprint:
    """Inventory's own routes."""
    api = Blueprint("inventory", __name__)
    database = service.database

    @api.get("/stock")
    @operation("The stock of all SKUs", answers={200: StockList})
    def stock() -> Answer:
        return StockList(items=[_stock(row) for row in models.list_stock(database)])

    @api.get("/stock/<sku:sku>")
    @operation("The stock of a SKU", answers={200: StockAnswer}, problems=(404,))
    def stock_of(sku: str) -> Answer:
        row = models.stock_of(database, sku)
        if row is None:
            raise not_found(f"SKU {sku}")
        return _stock(row)

    @api.post("/stock/<sku:sku>/restock")
    @operation("Adds pieces of a SKU", body=RestockRequest, answers={200: StockAnswer}, problems=(404, 409),
               access="operator", idempotent="key")  # fmt: skip
    def restock(sku: str) -> Answer:
        asked = body(RestockRequest)

        def add(unit: UnitOfWork) -> Answer:
            row = models.restock(unit.connection, sku, asked.quantity)
            if row is None:
                if not models.is_sold(unit.connection, sku):
                    raise not_found(f"SKU {sku}")
                raise Problem(409, "Conflict", f"there would be more than {models.MOST} pieces of {sku}")
            return _stock(row)

        return once(service.outbox, asked, add)

    @api.get("/reservations/<id:order_id>")
    @operation("The reservation of an order", answers={200: ReservationAnswer}, problems=(404,))
    def reservation(order_id: str) -> Answer:
        found = models.reservation(database, order_id)
        if found is None:
            raise not_found(f"reservation of order {order_id}")
        row, created_at, updated_at = found
        return ReservationAnswer(
            order_id=row.order_id,
            state=row.state,
            items=[Item(sku=sku, quantity=quantity) for sku, quantity in row.pieces.items()],
            reason=row.reason,
            created_at=created_at,
            updated_at=updated_at,
        )

    return api


def _stock(row: tuple[str, int, int]) -> StockAnswer:
    sku, available, reserved = row
    return StockAnswer(sku=sku, available=available, reserved=reserved)
