"""The answers of any provider (of payments, of shipments).

Each service defines a protocol of its own for its provider; all of these follow the same rules:

- A call takes at most the provider's timeout. It returns an answer, or raises UnknownOutcome or OSError: then it may or
  may not have taken effect.
- Calls with the same idempotency key take effect once, for as long as the provider keeps the key.
- `void(key)` compensates what was done under the key, or ensures that it can never be done. It can be repeated.
- `lookup(key)` returns what was done under the key, however old it is.
"""

from __future__ import annotations

from dataclasses import dataclass

EXPIRED = "expired"
"""The `reason` of a refusal because the provider no longer knows the key: the retry came too late."""


@dataclass(frozen=True, slots=True)
class Success:
    """Done. `reference` is the provider's own id for it."""

    reference: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It will not be done; `reason` is a short text for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Voided:
    """It can't happen any more. `reference` is what was compensated, None if there was nothing; `amount` (in minor
    units) and `currency` are given if it was money."""

    reference: str | None = None
    amount: int | None = None
    currency: str | None = None


Answer = Success | Refused | Voided
