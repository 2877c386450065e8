"""Asks the service in this container whether it is ready; exit status 0 if it is.

Run every few seconds in every container, so it imports next to nothing.
"""

import os
import socket
import sys

SERVICES = ("order", "inventory", "payment", "shipping", "orchestrator")


def check(environ):
    """The exit status. A process without a port (the command line, a worker) counts as healthy while it runs."""
    name = environ.get("ORDERFLOW_SERVICE", "")
    if name not in SERVICES or environ.get("ORDERFLOW_ROLE") == "worker":
        return 0
    port = int(environ.get(f"{name.upper()}_PORT") or 8001 + SERVICES.index(name))
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return 0 if connection.recv(16).startswith(b"HTTP/1.1 200") else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(check(os.environ))
