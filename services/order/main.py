"""Wires the order service."""

from __future__ import annotations

from flask import Blueprint

from orderflow.broker import Broker
from orderflow.database import Database
from orderflow.messaging.outbox import Outbox
from orderflow.saga.answers import Answers
from orderflow.saga.retry_budget import RetryBudget
from orderflow.service import Service
from orderflow.settings import Settings
from services.order import api
from services.order.coordinator import OrderSweeper
from services.order.due import restart_clocks
from services.order.handlers import Orders
from services.order.models import AHEAD, gauges, kept
from services.order.placement import Placing
from services.order.queries import Reading


def build(settings: Settings, broker: Broker) -> Service:
    """Returns the order service for this process, not yet started. Raises ConfigurationError."""
    database = Database(settings.database_url.get_secret_value(), size=settings.database_pool, name="order")
    outbox = Outbox(database, lease=settings.lease)
    outbox.restart_clocks(lambda connection, ids: restart_clocks(connection, ids, settings.resend_after[0]))
    budget = RetryBudget("order", settings.retry_budget)
    answers = Answers(settings.resend_after[0])
    return Service(
        settings,
        Orders(settings, budget, answers),
        database,
        outbox,
        broker,
        sweeper=OrderSweeper(database, outbox, settings, budget, answers),
        answers=answers,
        consumer_threads=2,
        gauges=lambda: gauges(database, settings),
        kept=kept(settings),
        ahead=AHEAD,
    )


def blueprint(service: Service) -> Blueprint:
    """The order service's routes."""
    placing = Placing(service.settings, service.database, service.outbox)
    return api.blueprint(service.settings, service.outbox, placing, Reading(service.settings, service.database))
