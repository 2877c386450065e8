"""Payment's table: an intent an order. Its statements are those of `orderflow.providers.intents`."""

from __future__ import annotations

from typing import Final

from orderflow.providers import intents

TABLE: Final = "payments"
TABLES: Final = intents.table(TABLE)
