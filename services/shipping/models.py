"""Shipping's table: one intent per order. Its statements are those of `orderflow.providers.intents`."""

from __future__ import annotations

from typing import Final

TABLE: Final = "shipments"
