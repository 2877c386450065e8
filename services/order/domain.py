"""The rules of an order: its price and its status. Prices come from the server, never from the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """An order's status, derived from its facts. In the last three nothing more happens by itself."""

    PLACED = "PLACED"
    STOCK_RESERVED = "STOCK_RESERVED"
    PAID = "PAID"
    CANCELLING = "CANCELLING"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"
    NEEDS_ATTENTION = "NEEDS_ATTENTION"


@dataclass(frozen=True, slots=True)
class Product:
    """What is for sale. `amount` is the price of one piece in minor units of `currency` (ISO 4217)."""

    sku: str
    name: str
    amount: int
    currency: str


class UnknownSku(ValueError):
    """An order contains a product that isn't for sale. `line` counts from 0."""

    def __init__(self, line: int, sku: str) -> None:
        super().__init__(f"{sku} is not for sale; GET /products lists what is")
        self.line = line


class MixedCurrencies(ValueError):
    """An order's products are priced in different currencies. `line` is the first that differs."""

    def __init__(self, line: int, first: str, other: str) -> None:
        super().__init__(f"priced in {other}, while the order's first line is in {first}; place one order per currency")
        self.line = line


def total(lines: Sequence[tuple[str, int]], products: Mapping[str, Product]) -> tuple[int, str]:
    """The price of all lines (SKU, quantity): minor units, currency. Raises UnknownSku or MixedCurrencies."""
    amount, currency = 0, ""
    for i, (sku, quantity) in enumerate(lines):
        product = products.get(sku)
        if product is None:
            raise UnknownSku(i, sku)
        if currency and product.currency != currency:
            raise MixedCurrencies(i, currency, product.currency)
        currency = product.currency
        amount += product.amount * quantity
    return amount, currency


@dataclass(frozen=True, slots=True)
class Progress:
    """The facts about an order that decide its status."""

    reserved: bool
    paid: bool
    confirmed: bool
    cancelling: bool
    cancelled: bool
    needs_attention: bool


def status(progress: Progress) -> Status:
    """The status that follows from an order's progress. A decision is final. NEEDS_ATTENTION hides how far the order
    got until an operator resolves it."""
    if progress.confirmed:
        return Status.CONFIRMED
    if progress.cancelled:
        return Status.CANCELLED
    if progress.needs_attention:
        return Status.NEEDS_ATTENTION
    if progress.cancelling:
        return Status.CANCELLING
    if progress.paid:
        return Status.PAID
    return Status.STOCK_RESERVED if progress.reserved else Status.PLACED
