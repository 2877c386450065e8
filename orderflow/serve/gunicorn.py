"""Runs a service under gunicorn: workers with threads, nothing preloaded, everything made after the fork."""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from orderflow import failpoints
from orderflow.errors import Problem
from orderflow.serve.buffering import BufferingWorker, refusal
from orderflow.serve.process import Running
from orderflow.settings import Settings
from orderflow.web.idempotency import HEADER, one_line

_WHOLE: Final = 9
"""Seconds from SIGTERM until gunicorn kills a worker that is still running."""

_REQUESTS: Final = 4
"""The part of these seconds for requests in flight; the rest is for messages in flight and the last sends."""

_OTHER_FILES: Final = 256
"""Files that a process may need besides its clients' connections: database, broker, traces, logs."""

_KEY: Final = HEADER.upper()
"""The header's name in gunicorn."""

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - heartbeat files: on a slow disk, their touch can block a worker


class Worker(BufferingWorker):
    """Stops receiving messages at SIGTERM, while the last requests are still being answered."""

    running: Running | None = None
    stop_at = 0.0

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.stop_at = time.monotonic() + _WHOLE - 1
        if self.running:
            self.running.stop_receiving()
        super().handle_exit(sig, frame)

    def set_accept_enabled(self, enabled: bool) -> None:
        stopping = not enabled and not self.alive
        for listener in self.sockets if stopping else ():
            # Clients that have connected already are still served; in the backlog, they would be cut off.
            before = -1
            while before < self.nr_conns:
                before = self.nr_conns
                self.accept(listener)
        super().set_accept_enabled(enabled)
        for listener in self.sockets if stopping else ():
            # A caller that is refused at once goes to another process, or retries.
            listener.close()


class QuietLogger(Logger):  # type: ignore[misc]
    """Leaves gunicorn's records to the root logger; nothing is logged for each request."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        # Its warnings are about malformed requests, which they quote.
        self.error_log.setLevel(logging.ERROR)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        # A request that only looked complete is not an error of this service.
        if not isinstance(sys.exception(), TimeoutError):
            super().exception(msg, *args, **kwargs)


def _write_problem(client: Any, status: int, reason: str, detail: str) -> None:
    """gunicorn's own answer to malformed HTTP, as problem+json like every other error. gunicorn's text would quote the
    caller."""
    client.sendall(refusal(Problem(status, reason, "not a valid HTTP request")))


def _mark_one_key(worker: Any, received: Any) -> None:
    # WSGI joins headers of the same name: after that, a key with a comma looks like two keys.
    lines = [i for i, (name, _) in enumerate(received.headers) if name == _KEY]
    if len(lines) == 1:
        received.headers[lines[0]] = (_KEY, one_line(received.headers[lines[0]][1]))


class _Application(BaseApplication):  # type: ignore[misc]
    def __init__(self, name: str, settings: Settings, listener: socket.socket, *, migrated: bool) -> None:
        self._name = name
        self._settings = settings
        self._listener = listener
        self._migrated = migrated
        super().__init__()

    def load_config(self) -> None:
        settings = self._settings
        for key, value in {
            "bind": f"fd://{self._listener.detach()}",
            "workers": settings.web_workers,
            "threads": settings.web_threads,
            "worker_class": "orderflow.serve.gunicorn.Worker",
            "logger_class": QuietLogger,
            "proc_name": f"orderflow-{self._name}",
            "graceful_timeout": _WHOLE,
            "timeout": 30,
            "keepalive": 75,
            "worker_connections": _connections(settings.web_connections),
            "sendfile": False,
            "limit_request_line": 4094,
            "limit_request_fields": 64,
            "limit_request_field_size": 8190,
            "forwarded_allow_ips": "",
            "pre_request": _mark_one_key,
            "post_fork": self._forked,
            "worker_exit": _leave,
            **({"worker_tmp_dir": str(_MEMORY)} if os.access(_MEMORY, os.W_OK) else {}),
            **({"control_socket_disable": True} if "control_socket_disable" in self.cfg.settings else {}),
        }.items():
            self.cfg.set(key, value)

    def load(self) -> Any:
        """Called in each worker, after the fork."""
        from orderflow.web import create_app

        running = Running(self._name, self._settings, migrated=self._migrated)
        self._worker.running = running
        return create_app(running.service, [running.module.blueprint(running.service)])

    def _forked(self, arbiter: Any, worker: Worker) -> None:
        self._worker = worker
        worker.cfg.set("graceful_timeout", _REQUESTS)
        worker.request_timeout = self._settings.web_request_timeout
        worker.response_timeout = self._settings.web_response_timeout
        # Only the first workers: those that replace a dead one must live, since a fault test kills once.
        if self._settings.crash_at and worker.age <= self._settings.web_workers:
            failpoints.arm_crash(self._settings.crash_at)


def _connections(wanted: int) -> int:
    """Raises the process's limit of open files for `wanted` connections. Returns how many are possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if 0 <= soft < needed:
        soft = needed if hard < 0 else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft < 0 else max(1, min(wanted, soft - _OTHER_FILES))


def _leave(arbiter: Any, worker: Worker) -> None:
    """Called at the end of a worker, and in the main process for a worker that vanished."""
    if worker.running and worker.pid == os.getpid():
        worker.running.stop(max(1.0, worker.stop_at - time.monotonic()))


def run(name: str, settings: Settings, listener: socket.socket, *, migrated: bool) -> None:
    """Serves until SIGTERM; ends the process."""
    util.write_error = _write_problem
    _Application(name, settings, listener, migrated=migrated).run()
