"""Runs one service: `python -m orderflow.serve order`.

The main process checks the settings, opens the port and migrates the database. Each gunicorn worker makes everything
that a fork would break (clients, pools, threads, the tracer) for itself. `ORDERFLOW_ROLE=worker` runs without a port.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from typing import Final

import structlog

from orderflow import failpoints
from orderflow.database import check_url
from orderflow.database.migrate import migrate
from orderflow.environment import bypass_proxies, do_without, seal_aws
from orderflow.errors import ConfigurationError, DatabaseUnavailable
from orderflow.routing import SERVICES
from orderflow.settings import Role, Settings, load
from orderflow.telemetry import logs

log = structlog.get_logger(__name__)

_HELP: Final = """
Settings come from the environment; `.env.example` lists them all. The most important:
  DATABASE_URL        this service's own PostgreSQL database
  AWS_ENDPOINT_URL    LocalStack's address (locally; on AWS: ORDERFLOW_ENV=aws instead)
  ORDERFLOW_ROLE      all (default): HTTP and messages; web: HTTP only; worker: messages only, no port
  ORDERFLOW_BIND, *_PORT              where HTTP listens (ORDER_PORT, INVENTORY_PORT, …)
  OTEL_EXPORTER_OTLP_ENDPOINT         where traces go; none: no traces are made

SIGTERM stops it: it accepts no more requests and messages, finishes those in flight, and exits within ten seconds.
It waits for an unavailable database or broker; /readyz says so meanwhile.
Exit status: 0 stopped; 2 a setting is wrong, or the port is in use.
"""

MIGRATION_PATIENCE: Final = 3.0
"""Seconds that a start waits for the database; then it continues without, and the workers keep trying."""

_KERNEL_BUFFER: Final = 128 * 1024
"""Bytes that the kernel buffers per connection and direction; Linux doubles the value. socket(7), tcp(7)"""

_KERNEL_LATER: Final = 5
"""Seconds by which the kernel gives up on a client later than the service, which also resets the connection."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the service that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m orderflow.serve",
        description="Runs one of orderflow's services.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("service", choices=SERVICES, help="the service to run")
    name = parser.parse_args(arguments).service
    try:
        left_out = do_without()
        settings = load(name)
        logs.configure(name, settings.log_level)
        for what in left_out:
            log.warning(what)
        seal_aws(settings)
        bypass_proxies(
            [
                settings.aws_endpoint_url,
                settings.orchestrator_url,
                settings.otel_exporter_otlp_endpoint,
                settings.otel_exporter_otlp_traces_endpoint,
            ]
            if settings.orderflow_env == "local"
            else ()
        )
        if not settings.database_url.get_secret_value():
            raise ConfigurationError(
                "DATABASE_URL is not set; give it as postgresql://user:password@host:port/database"
            )
        check_url("DATABASE_URL", settings.database_url.get_secret_value())
        check_url("PROVIDERS_DATABASE_URL", settings.providers_database_url.get_secret_value())
        if settings.crash_at:
            failpoints.check(settings.crash_at)
        listener = None if settings.orderflow_role is Role.WORKER else listen(name, settings)
        migrated = _migrated(name, settings)
    except ConfigurationError as error:
        print(f"{name} can't start: {error}", file=sys.stderr)  # noqa: T201 - logging may not be configured yet
        return 2
    log.info("starting", role=settings.orderflow_role.value, port=listener and settings.port(name), pid=os.getpid())
    if listener is None:
        from orderflow.serve.worker import run as run_worker

        run_worker(name, settings, migrated=migrated)
    else:
        from orderflow.serve.gunicorn import run as run_web

        run_web(name, settings, listener, migrated=migrated)
    return 0


def listen(name: str, settings: Settings) -> socket.socket:
    """Opens the service's port. Raises ConfigurationError, which names the port and its variable."""
    variable, port, host = f"{name.upper()}_PORT", settings.port(name), settings.orderflow_bind
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit these: what the kernel buffers for a client that doesn't read is memory of this machine,
        # even after the connection has been closed here.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BUFFER)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER)
        kept = round((settings.web_response_timeout + _KERNEL_LATER) * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, kept)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        raise ConfigurationError(
            f"{variable}={port} on {host} can't be used ({error.strerror or error}): "
            f"stop what listens there, or set {variable} to a free port"
        ) from error
    return listener


def _migrated(name: str, settings: Settings) -> bool:
    try:
        migrate(name, settings.database_url.get_secret_value(), patience=MIGRATION_PATIENCE)
    except DatabaseUnavailable as error:
        log.warning("starting without the database; it will be migrated when it answers", error=str(error))
        return False
    return True
