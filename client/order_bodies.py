"""Builds the body of an order; the address is always the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

CUSTOMER: Final = "c-42"


def basket(
    lines: Sequence[tuple[str, int]],
    payment_method: str,
    postal_code: str,
    workflow: str | None = None,
    event_bus: str | None = None,
    customer: str = CUSTOMER,
) -> dict[str, Any]:
    """`lines`: SKU and quantity. The system chooses the workflow or the bus if it is None."""
    body: dict[str, Any] = {
        "customer_id": customer,
        "items": [{"sku": sku, "quantity": quantity} for sku, quantity in lines],
        "payment_method": payment_method,
        "shipping_address": {
            "name": "Ada", "line1": "1 Main St", "city": "Berlin", "postal_code": postal_code, "country": "DE",
        },
    }  # fmt: skip
    return body | {k: v for k, v in (("workflow", workflow), ("event_bus", event_bus)) if v}
