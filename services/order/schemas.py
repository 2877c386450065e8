"""The requests and answers of the order API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from orderflow.contracts import EventBus, Id, Sku, Workflow
from orderflow.web import LINE, OperatorRequest, RequestModel, Time
from services.order.domain import Status

MAX_LINES = 100
MAX_PIECES = 10_000
"""The largest quantity of one line."""

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
    """Who retries an order that needs attention, and why. Both are recorded in its timeline."""


class BulkRetryRequest(OperatorRequest):
    """Which orders to retry: those that need attention and match the filter, oldest first."""

    status: Literal[Status.NEEDS_ATTENTION] = Status.NEEDS_ATTENTION
    workflow: Workflow | None = None
    reason: _Short | None = None
    """A part of the order's reason; upper and lower case are the same."""
    older_than: Annotated[float, Field(ge=0, le=10**9)] | None = None
    """Seconds since something about the order last changed."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    cursor: Id | None = None
    """The `cursor` of the previous answer: continue after it."""


class BulkRetryAnswer(BaseModel):
    """`skipped`: orders that another transaction had locked. `matching`: how many orders the filter named before the
    retry, on the first page only. `more`: there are others after `cursor`."""

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
    """Only orders that need an operator, or that are past every deadline."""
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Id | None = None


class Amount(BaseModel):
    """An amount in minor units of an ISO 4217 currency."""

    amount: int
    currency: str


class OrderAnswer(BaseModel):
    """`status`, `workflow` and `event_bus` can have other values after a rollback, for orders that a newer release
    placed."""

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
    """A step that has no answer yet: since when, and when its owner gives up on it."""

    step: str
    service: str
    since: Time
    deadline: Time | None


class Timeline(BaseModel):
    """`incomplete` names coordinators that did not answer; their entries are missing."""

    entries: list[TimelineEntry]
    waiting_for: list[Waiting] | None
    incomplete: list[str] = []
