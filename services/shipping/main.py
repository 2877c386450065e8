"""Wires the shipping service. No other module knows which parts it is made of."""

from __future__ import annotations

from flask import Blueprint

from orderflow.broker import Broker
from orderflow.database import Database
from orderflow.messaging.outbox import Outbox
from orderflow.providers import intents
from orderflow.providers.calls import CallPolicy
from orderflow.providers.processor import ProviderProcessor
from orderflow.providers.retrying import Retrying
from orderflow.service import Service
from orderflow.settings import Settings
from services.shipping import api
from services.shipping.handlers import Shipping
from services.shipping.models import TABLE
from services.shipping.provider import Carrier, simulated
from simulator import Simulated
from simulator import api as simulator


def build(settings: Settings, broker: Broker, carrier: Carrier | None = None) -> Service:
    """Returns the shipping service for this process, not yet started. Without `carrier` it uses the simulated one.

    Raises ConfigurationError.
    """
    database = Database(settings.database_url.get_secret_value(), size=settings.database_pool, name="shipping")
    application = Shipping(carrier or simulated(settings), CallPolicy.of(settings))
    outbox = Outbox(database, lease=settings.lease)
    return Service(
        settings,
        application,
        database,
        outbox,
        broker,
        processor=lambda guard: ProviderProcessor(application, outbox, guard),
        workers=[Retrying(application, outbox)],
        kept=intents.kept(TABLE),
        ahead=intents.ahead(TABLE),
        close=application.close,
        gauges=lambda: application.gauges(database),
    )


def blueprint(service: Service) -> Blueprint:
    """Shipping's routes, and the simulator's routes if the carrier is simulated."""
    routes = api.blueprint(service)
    application = service.application
    if isinstance(application, Shipping) and isinstance(application.carrier, Simulated):
        routes.register_blueprint(simulator.blueprint(application.carrier))
    return routes
