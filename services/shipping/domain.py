"""The rules of shipping: what the test addresses of the simulated carrier do."""

from __future__ import annotations

from typing import Final

UNDELIVERABLE: Final = "00000"
"""A postal code that no carrier delivers to."""

SLOW: Final = "99999"
"""A postal code whose bookings take a second."""


def refusal(postal_code: str) -> str | None:
    """Why the carrier doesn't deliver there; None if it does."""
    return "undeliverable address" if postal_code == UNDELIVERABLE else None


def seconds_to_book(postal_code: str, timeout: float) -> float:
    """How long the carrier takes; less than `timeout`, however slow."""
    return min(1.0, timeout / 2) if postal_code == SLOW else 0.0
