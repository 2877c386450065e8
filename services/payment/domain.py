"""The rules of payment: how the test cards of the simulated provider behave."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Card(Enum):
    """How a payment method behaves."""

    GOOD = "is charged"
    DECLINED = "is declined"
    TIMEOUT = "gives no answer twice: once before it was charged, once after"


CARDS: Final = {"pm_card_visa": Card.GOOD, "pm_card_declined": Card.DECLINED, "pm_card_timeout": Card.TIMEOUT}


def refusal(payment_method: str) -> str | None:
    """The reason why this payment method is declined; None if it is accepted."""
    card = CARDS.get(payment_method)
    if card is None:
        return "unknown payment method"
    return "card declined" if card is Card.DECLINED else None


def loses_answers(payment_method: str) -> bool:
    """Whether the first two calls with this payment method get no answer."""
    return CARDS.get(payment_method) is Card.TIMEOUT
