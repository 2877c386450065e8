"""What a provider (of payments, of shipments) answers, whoever it is.

Each service has a protocol of its own for its provider, in its own words; all of them keep to these rules:

- A call takes at most the provider's timeout. It gives an answer, or raises UnknownOutcome or OSError: then it may or
  may not have taken effect.
- Calls with the same idempotency key take effect once, for as long as the provider keeps the key.
- `void(key)` takes back what was done under the key, or sees to it that it can never be done. It can be repeated.
- `lookup(key)` tells what was done under the key, however old it is.
"""

from __future__ import annotations

from dataclasses import dataclass

EXPIRED = "expired"
"""The `reason` of a refusal because the provider no longer knows the key: whoever asked again was too late."""


@dataclass(frozen=True, slots=True)
class Success:
    """Done. `reference` is the provider's own id for it."""

    reference: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It will not be done; `reason` is short and for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Voided:
    """It can't happen any more. `reference` is what was taken back, None if there was nothing; `amount` its minor
    units and `currency`, where it was money."""

    reference: str | None = None
    amount: int | None = None
    currency: str | None = None


Answer = Success | Refused | Voided
