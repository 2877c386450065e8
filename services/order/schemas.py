"""What callers of the order API send and get."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from orderflow.contracts import EventBus, Id, Sku, Workflow
from orderflow.web import LINE, OperatorRequest, RequestModel, Time
from services.order.domain import Status

MAX_LINES = 100
MAX_PIECES = 10_000
"""Of one line."""

_Short = Annotated[str, Field(min_length=1, max_length=100, pattern=LINE)]
_Long = Annotated[str, Field(min_length=1, max_length=200, pattern=LINE)]


class OrderLine(RequestModel):
    sku: Sku
    quantity: Annotated[int, Field(gt=0, le=MAX_PIECES)]


class ShippingAddress(RequestModel):
    name: _Long
    line1: _Long
    city: _Short
    postal_code: Annotated[str, Field(min_length=1, max_length=20, pattern=LINE)]
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")]
    """ISO 3166-1 alpha-2."""


class OrderRequest(RequestModel):
    customer_id: _Short
    items: Annotated[tuple[OrderLine, ...], Field(min_length=1, max_length=MAX_LINES)]
    payment_method: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    shipping_address: ShippingAddress
    workflow: Workflow | None = None
    event_bus: EventBus | None = None


class CancelRequest(RequestModel):
    reason: Annotated[str, Field(max_length=200, pattern=LINE)] = ""


class RetryRequest(OperatorRequest):
    """Who retries an order that needed attention, and why; both are kept in its timeline."""


class BulkRetryRequest(OperatorRequest):
    """Which orders: those that need attention, oldest first, and of these what the filter leaves."""

    status: Literal[Status.NEEDS_ATTENTION] = Status.NEEDS_ATTENTION
    workflow: Workflow | None = None
    reason: _Short | None = None
    """A part of the order's reason, in any case of letters."""
    older_than: Annotated[float, Field(ge=0, le=10**9)] | None = None
    """Seconds since something about the order last changed."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: Id | None = None
    """Of the answer before: continue after it."""


class BulkRetryAnswer(BaseModel):
    """`skipped`: orders that something else was busy with. `matching`: how many the filter named before, on the first
    page only. `more`: there are others after `cursor`."""

    retried: int
    skipped: int
    matching: int | None
    more: bool
    cursor: str | None


class OrderQuery(RequestModel):
    status: Status | None = None
    workflow: Workflow | None = None
    customer_id: _Short | None = None
    stuck: bool = False
    """Only those that need an operator, or are past every deadline."""
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Id | None = None


class Amount(BaseModel):
    """Minor units of an ISO 4217 currency."""

    amount: int
    currency: str


class OrderAnswer(BaseModel):
    """`status`, `workflow` and `event_bus` can be others: of an order that a newer release placed, after a rollback."""

    id: str
    status: Status | str
    workflow: Workflow | str
    event_bus: EventBus | str
    total: Amount
    trace_id: str | None
    traced: bool
    """Whether its spans are recorded; `trace_id` is in its log lines either way."""
    created_at: Time
    updated_at: Time
    reason: str | None = None
    customer_id: str | None = None


class OrderPage(BaseModel):
    items: list[OrderAnswer]
    next_cursor: str | None


class ProductAnswer(BaseModel):
    sku: str
    name: str
    price: Amount


class ProductPage(BaseModel):
    items: list[ProductAnswer]


class TimelineEntry(BaseModel):
    """`resend`: how often the message had been sent before."""

    at: Time
    service: str
    kind: Literal["command", "event", "note"] | str
    type: str
    message_id: str | None
    causation_id: str | None
    note: str = ""
    resend: int = 0


class Waiting(BaseModel):
    """A step without an answer: since when, and when its owner gives up on it."""

    step: str
    service: str
    since: Time
    deadline: Time | None


class Timeline(BaseModel):
    """`incomplete` names coordinators that did not answer; their entries are missing."""

    entries: list[TimelineEntry]
    waiting_for: list[Waiting] | None
    incomplete: list[str] = []
