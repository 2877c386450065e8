"""The services' gunicorn worker with a tiny application: `python -m tests.support.small_server FD`.

Settings: THREADS, CONNECTIONS, REQUEST_TIMEOUT, RESPONSE_TIMEOUT; WORKER names another worker class.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from gunicorn import util
from gunicorn.app.base import BaseApplication

from orderflow.serve import gunicorn as web


def _answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body, path = environ["wsgi.input"].read(), environ["PATH_INFO"]
    if path == "/breaks":
        start_response("200 OK", [("Content-Length", "1000")])
        return _breaks()
    if path == "/docs/swagger-ui-bundle.js":
        body = b"x" * 1_400_000
    elif not body:
        body = path.encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def _breaks() -> Iterable[bytes]:
    yield b"the beginning"
    raise RuntimeError("in the middle of an answer")


class _Small(BaseApplication):  # type: ignore[misc]
    def load_config(self) -> None:
        for key, value in {
            "bind": f"fd://{sys.argv[1]}",
            "threads": int(os.environ.get("THREADS", "2")),
            "worker_class": os.environ.get("WORKER", "orderflow.serve.buffering.BufferingWorker"),
            "worker_connections": int(os.environ.get("CONNECTIONS", "1000")),
            "keepalive": 75,
            "graceful_timeout": int(os.environ.get("GRACE", "30")),
            "control_socket_disable": True,
            "loglevel": "error",
            "post_fork": _limit,
        }.items():
            if key in self.cfg.settings:
                self.cfg.set(key, value)

    def load(self) -> Any:
        return _answer


def _limit(arbiter: Any, worker: Any) -> None:
    worker.request_timeout = float(os.environ.get("REQUEST_TIMEOUT", "30"))
    worker.response_timeout = float(os.environ.get("RESPONSE_TIMEOUT", "30"))


if __name__ == "__main__":
    util.write_error = web._write_problem
    _Small().run()
