"""Wires the orchestrator."""

from __future__ import annotations

from flask import Blueprint

from orchestrator import api, store
from orchestrator.handlers import Orchestrator
from orchestrator.timers import SagaSweeper
from orderflow.bus import Broker
from orderflow.database import Database
from orderflow.outbox import Outbox
from orderflow.service import Service
from orderflow.settings import Settings


def build(settings: Settings, broker: Broker) -> Service:
    """The service, not started."""
    database = Database(settings.database_url.get_secret_value(), size=settings.database_pool, name="orchestrator")
    outbox = Outbox(database, lease=settings.lease)
    return Service(
        settings,
        Orchestrator(settings),
        database,
        outbox,
        broker,
        sweeper=SagaSweeper(outbox, settings),
        prune=lambda: store.prune(database, settings.keep_log),
    )


def blueprint(service: Service) -> Blueprint:
    """Its HTTP views."""
    return api.blueprint(service.settings, service.database)
