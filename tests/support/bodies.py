"""Valid bodies: of an order, with changes, and of each other route that reads one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from client.order_bodies import basket


def order_body(**changes: Any) -> dict[str, Any]:
    """A valid request for an order, with changes: `sku`, `quantity`, `postal_code`, or any field of the request."""
    line = (changes.pop("sku", "BOOK-1"), changes.pop("quantity", 2))
    return basket([line], "pm_card_visa", changes.pop("postal_code", "10115"), customer="c-1") | changes


VALID: Final[Mapping[str, Any]] = {
    "OrderRequest": order_body(workflow="choreography", event_bus="sns"),
    "CancelRequest": {"reason": "changed my mind"},
    "RetryRequest": {"by": "ada", "why": "the carrier is back"},
    "BulkRetryRequest": {"by": "ada", "why": "the carrier is back", "workflow": "hybrid", "limit": 10},
    "RestockRequest": {"quantity": 3},
    "Settle": {"by": "ada", "why": "repaired", "ids": ["01a20c9c-842a-7161-bc3c-4230b7469cf6"], "order_id": None},
    "FaultsDocument": {"error_rate": 0.5, "latency": 0.1, "outage": False},
}
"""Bodies by the model that the route reads."""


def valid_body(operation: Mapping[str, Any]) -> Any:
    """A body for an operation of an OpenAPI document; None if it reads no body."""
    if "requestBody" not in operation:
        return None
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    return VALID[schema["$ref"].rpartition("/")[2]]
