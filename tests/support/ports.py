"""Ports for servers that tests start, below those that the operating system gives to clients. A port belongs to this
process until it ends.

Several test processes look for ports at the same time: each claims its own by a lock, long before it listens on them.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO, Final

from runtime.plan import PORTS

_claims: Final[list[IO[str]]] = []
"""Open files, whose locks are this process's ports."""
_chosen: Final = random.Random(os.urandom(8))


def free_port() -> int:
    """A port that nobody listens on or has claimed."""
    claims = Path(tempfile.gettempdir()) / "orderflow-test-ports"
    claims.mkdir(exist_ok=True)
    while True:
        port = _chosen.randrange(15000, 32000)
        claim = (claims / str(port)).open("w")
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port


def free_ports() -> dict[str, str]:
    """A free port for every variable."""
    return {name: str(free_port()) for name in PORTS}
