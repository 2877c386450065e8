"""One service in a process, under gunicorn or as a worker."""

from __future__ import annotations

import gc
import importlib
import threading
from types import ModuleType
from typing import Final

import structlog

from orderflow import telemetry
from orderflow.broker.aws.broker import AwsBroker
from orderflow.database.migrate import migrate
from orderflow.errors import DatabaseUnavailable
from orderflow.settings import Settings

log = structlog.get_logger(__name__)

_PATIENCE: Final = 30.0
"""Seconds between two log lines while the schema is older than this code: the migration waits for the database, for a
lock, or for another process that is migrating."""


class Running:
    """One service in this process: it is made, started as soon as its database is available, and stopped once."""

    def __init__(self, name: str, settings: Settings, *, migrated: bool) -> None:
        telemetry.start(name, settings)
        self.module = module_of(name)
        self.service = self.module.build(settings, AwsBroker(settings))
        self._name = name
        self._url = settings.database_url.get_secret_value()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        _tune_garbage_collection()
        if migrated:
            self.service.start()
        else:
            self.service.schema = "not migrated yet"
            threading.Thread(target=self._start_when_migrated, name="migration", daemon=True).start()

    def stop_receiving(self) -> None:
        """Receives no more messages. Safe to call in a signal handler."""
        self.service.consumer.stop()

    def stop(self, grace: float) -> None:
        """Stops the service and sends the last spans, in about `grace` seconds."""
        with self._lock:
            if self._ended.is_set():
                return
            self._ended.set()
            self.service.stop(grace)
        telemetry.stop()

    def _start_when_migrated(self) -> None:
        while not self._ended.is_set():
            try:
                migrate(self._name, self._url, patience=_PATIENCE)
            except DatabaseUnavailable as error:
                self.service.schema = f"not migrated yet: {error}"
                log.warning("waiting for the database", error=str(error))
                continue
            with self._lock:
                if not self._ended.is_set():
                    self.service.schema = None
                    self.service.start()
            return


def _tune_garbage_collection() -> None:
    # Modules, models and botocore's service definitions live as long as the process: no collection needs to visit them.
    # Reference counts free the objects of a batch; cycles are rare, so they may accumulate for longer.
    # https://docs.python.org/3/library/gc.html#gc.freeze
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def module_of(service: str) -> ModuleType:
    """The module that wires `service`: it has `build(settings, broker)` and `blueprint(service)`."""
    package = "orchestrator" if service == "orchestrator" else f"services.{service}"
    return importlib.import_module(f"{package}.main")
