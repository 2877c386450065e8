"""The rules of shipping: how the simulated carrier behaves for its test addresses."""

from __future__ import annotations

from typing import Final

UNDELIVERABLE: Final = "00000"
"""A postal code that no carrier delivers to."""

SLOW: Final = "99999"
"""A postal code for which a booking takes one second."""


def refusal(postal_code: str) -> str | None:
    """The reason why the carrier doesn't deliver to a postal code; None if it does."""
    return "undeliverable address" if postal_code == UNDELIVERABLE else None


def seconds_to_book(postal_code: str, timeout: float) -> float:
    """Seconds that the carrier takes to book; always less than `timeout`."""
    return min(1.0, timeout / 2) if postal_code == SLOW else 0.0
