"""What an order's saga is: its steps, what is owed, when to ask again, its audit log. Decides; sends nothing."""

from orderflow.saga.definition import (
    DEADLINE,
    NEEDS_ATTENTION,
    PAYMENT,
    SHIPMENT,
    STEP_UNDONE,
    STEPS,
    STOCK,
    Step,
    fact_of,
    owed,
    still_owed,
    undone,
)

__all__ = [
    "DEADLINE",
    "NEEDS_ATTENTION",
    "PAYMENT",
    "SHIPMENT",
    "STEPS",
    "STEP_UNDONE",
    "STOCK",
    "Step",
    "fact_of",
    "owed",
    "still_owed",
    "undone",
]
