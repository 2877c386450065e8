"""A valid body for each route that reads one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tests.support.system import order_body

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
