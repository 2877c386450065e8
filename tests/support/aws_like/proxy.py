"""An HTTP server on loopback in front of an emulator, which makes it behave as AWS's documentation says.

Requests keep their path, headers and signature, which emulators don't check. Calls of other APIs pass unchanged.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

from tests.support.aws_like.layer import Layer, Shape
from tests.support.aws_like.rules import Refused, Rules
from tests.support.aws_like.wire import Request, parse

_TIMEOUT: Final = 40
"""Seconds to wait for an answer: longer than the longest poll."""

_OWN: Final = frozenset({"connection", "content-length", "date", "server", "transfer-encoding", "content-encoding"})
"""Headers that the proxy sets itself."""


class _Answered(Refused):
    """The emulator's own refusal, unchanged."""

    def __init__(self, request: Request, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        super().__init__(request.fault_of(status, body))
        self.status, self.headers, self.body = status, headers, body


@contextmanager
def before(url: str, rules: Rules) -> Iterator[str]:
    """The URL of a proxy in front of the emulator at `url`."""
    server = _Server(url, rules)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, url: str, rules: Rules) -> None:
        there = urlsplit(url)
        self.upstream = (str(there.hostname), int(there.port or 80))
        self.ended = threading.Event()
        self.layer = Layer(rules, now=time.monotonic, sleep=time.sleep, later=self._later)
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a broken connection, on either side: a test broke it."""

    def _later(self, seconds: float, deliver: Callable[[], object]) -> None:
        """Retries until the event is delivered: AWS does so for a day."""

        def run() -> None:
            while not self.ended.wait(seconds):
                with suppress(OSError, http.client.HTTPException, Refused):
                    deliver()
                    return

        threading.Thread(target=run, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._upstream = http.client.HTTPConnection(*self.server.upstream, timeout=_TIMEOUT)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = parse(self.headers, body)
        if request is None:
            self._answer(*self._ask(self._upstream, {}, body))
            return
        try:
            answer = self.server.layer.call(
                request.service, request.operation, request.params, lambda o, p: self._forward(request, o, p)
            )
        except _Answered as answered:
            self._answer(answered.status, answered.headers, answered.body)
        except Refused as refused:
            headers, text = request.error(refused.fault)
            self._answer(refused.fault.status, list(headers.items()), text)
        else:
            kind = "text/xml" if request.form is not None else self.headers.get("Content-Type", "")
            self._answer(200, [("Content-Type", kind)], request.body_of(answer))

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _handle

    def _forward(self, request: Request, operation: str, params: Shape) -> Shape:
        """Sends a request to the emulator. It may run in another thread after this connection has ended; then it uses a
        connection of its own."""
        headers, body = request.encoded(operation, params)
        mine = threading.current_thread() is self._thread
        upstream = self._upstream if mine else http.client.HTTPConnection(*self.server.upstream, timeout=_TIMEOUT)
        status, told, text = self._ask(upstream, headers, body)
        if not mine:
            upstream.close()
        if status != 200:
            raise _Answered(request, status, told, text)
        return request.answer(text)

    def handle(self) -> None:
        self._thread = threading.current_thread()
        super().handle()

    def _ask(
        self, upstream: http.client.HTTPConnection, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        given = {n: v for n, v in self.headers.items() if n.lower() not in ("content-length", "x-amz-target")}
        if not headers and (target := self.headers.get("X-Amz-Target")):
            headers = {"X-Amz-Target": target}
        upstream.request(self.command, self.path, body, {**given, **headers})
        answer = upstream.getresponse()
        return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _OWN:
                self.send_header(name, value)
        self.send_header("Date", formatdate(usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
