"""An OTLP receiver that discards everything: `python -m lab.sink PORT`. It accepts spans at the least possible cost, so
that a measurement of tracing shows its cost to the services only."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lab.lines import serve


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    received = 0

    def do_POST(self) -> None:
        """Accepts one export; an empty answer is an ExportTraceServiceResponse in which nothing was refused."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        _Sink.received += len(body)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""


def main(arguments: list[str]) -> None:
    """Listens on loopback until standard input ends. The request `received` returns how many bytes of spans arrived."""
    server = ThreadingHTTPServer(("127.0.0.1", int(arguments[0])), _Sink)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    serve({"received": lambda: _Sink.received})


if __name__ == "__main__":
    main(sys.argv[1:])
