"""An order's saga: its steps, the compensations owed, when to resend, and its audit log. It sends nothing itself."""

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
