"""Wires the orchestrator. No other module knows which parts it is made of."""

from __future__ import annotations

from math import inf
from typing import Protocol, runtime_checkable

from flask import Blueprint

from orchestrator import api, store, watched_executions
from orchestrator.guardian import Guardian
from orchestrator.handlers import Orchestrator
from orchestrator.timers import SagaSweeper
from orderflow.broker import Broker
from orderflow.broker.aws.step_functions import StepFunctions
from orderflow.database import Database
from orderflow.messaging.outbox import Outbox
from orderflow.saga.answers import Answers
from orderflow.saga.retry_budget import RetryBudget
from orderflow.service import Service, Sweeper
from orderflow.settings import Settings


@runtime_checkable
class _RunsExecutions(Protocol):
    """A broker that can run a state machine."""

    step_functions: StepFunctions


class _Owners:
    """Runs several sweepers, one after another."""

    def __init__(self, *sweepers: Sweeper) -> None:
        self._sweepers = sweepers

    def sweep(self, lag: float, resumed: float = inf) -> bool:
        more = [sweeper.sweep(lag, resumed) for sweeper in self._sweepers]
        return any(more)

    def waits(self) -> bool:
        return any(sweeper.waits() for sweeper in self._sweepers)


def build(settings: Settings, broker: Broker) -> Service:
    """Returns the orchestrator for this process, not yet started. Raises ConfigurationError."""
    database = Database(settings.database_url.get_secret_value(), size=settings.database_pool, name="orchestrator")
    outbox = Outbox(database, lease=settings.lease)
    outbox.restart_clocks(lambda connection, ids: store.restart_clocks(connection, ids, settings.resend_after[0]))
    budget = RetryBudget("orchestrator", settings.retry_budget)
    answers = Answers(settings.resend_after[0])
    owners: list[Sweeper] = [SagaSweeper(database, outbox, settings, budget, answers)]
    if isinstance(broker, _RunsExecutions):
        owners.append(Guardian(database, outbox, broker.step_functions, settings))

    return Service(
        settings,
        Orchestrator(settings, budget, answers),
        database,
        outbox,
        broker,
        sweeper=_Owners(*owners),
        answers=answers,
        ahead=(*store.AHEAD, *watched_executions.AHEAD),
        kept=(*store.kept(settings.keep_log), *watched_executions.kept(settings.keep_log)),
        gauges=lambda: (*store.gauges(database), *watched_executions.gauges(database)),
    )


def blueprint(service: Service) -> Blueprint:
    """The orchestrator's routes."""
    broker = service.broker
    histories = broker.step_functions if isinstance(broker, _RunsExecutions) else None
    return api.blueprint(service.settings, service.database, histories)
