"""The simulated provider's own routes: its ledger and its faults. A service with a real provider does not have them."""

from __future__ import annotations

from typing import Annotated, Literal

from flask import Blueprint
from pydantic import BaseModel, Field

from orderflow.contracts import Id, Money
from orderflow.web import Answer, RequestModel, Time, body, operation, query
from simulator.faults import Faults
from simulator.ledger import LedgerEntry
from simulator.provider import Simulated


class LedgerQuery(RequestModel):
    """The ledger entries of one order, or the newest of all orders."""

    order_id: Id | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1_000


class LedgerItem(BaseModel):
    id: str
    order_id: str
    kind: Literal["charge", "refund", "shipment", "cancellation"]
    amount: Money | None
    idempotency_key: str
    at: Time


class LedgerAnswer(BaseModel):
    items: list[LedgerItem]


class FaultsDocument(RequestModel):
    """See `Faults`. A fault that is left out is off."""

    error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    latency: Annotated[float, Field(ge=0, le=60)] = 0.0
    outage: bool = False


def blueprint(provider: Simulated) -> Blueprint:
    """The routes under `/simulator`."""
    api = Blueprint("simulator", __name__, url_prefix="/simulator")

    @api.get("/ledger")
    @operation("What the simulated provider did, the newest first", query=LedgerQuery, answers={200: LedgerAnswer})
    def ledger() -> Answer:
        asked = query(LedgerQuery)
        return LedgerAnswer(items=[_item(e) for e in provider.entries(asked.order_id, asked.limit)])

    @api.get("/faults")
    @operation("The faults that are set", answers={200: FaultsDocument})
    def faults() -> Answer:
        known = provider.faults.get(fresh=True)
        return FaultsDocument(error_rate=known.error_rate, latency=known.latency, outage=known.outage)

    @api.put("/faults")
    @operation("Sets the faults, for all processes within a second", body=FaultsDocument,
               answers={200: FaultsDocument}, access="operator")  # fmt: skip
    def set_faults() -> Answer:
        asked = body(FaultsDocument)
        provider.faults.set(Faults(asked.error_rate, asked.latency, asked.outage))
        return asked

    return api


def _item(entry: LedgerEntry) -> LedgerItem:
    money = None
    if entry.amount is not None and entry.currency is not None:
        money = Money(amount=entry.amount, currency=entry.currency)
    return LedgerItem(
        id=entry.id,
        order_id=entry.order_id,
        kind=entry.kind,
        amount=money,
        idempotency_key=entry.idempotency_key,
        at=entry.at,
    )
