"""Wires the inventory service. No other module knows which parts it is made of."""

from __future__ import annotations

from orderflow.broker import Broker
from orderflow.database import Database
from orderflow.messaging.outbox import Outbox
from orderflow.service import Service
from orderflow.settings import Settings
from services.inventory import models
from services.inventory.api import blueprint
from services.inventory.handlers import Inventory

__all__ = ["blueprint", "build"]


def build(settings: Settings, broker: Broker) -> Service:
    """Returns the inventory service for this process, not yet started. Raises ConfigurationError."""
    database = Database(settings.database_url.get_secret_value(), size=settings.database_pool, name="inventory")
    return Service(settings, Inventory(), database, Outbox(database, lease=settings.lease), broker, kept=models.KEPT)
