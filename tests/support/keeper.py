"""Keeps a PostgreSQL server running while any test process holds the pipe open, however those processes end."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from pathlib import Path

from runtime.embedded.postgres import Postgres
from runtime.home import Home

_PR_SET_PDEATHSIG = 1


def keep(home: Home, port: int, pipe: Path) -> None:
    """Runs the server until the last writer of `pipe` has ended; then removes its data."""
    postgres = Postgres(home, port)
    program = postgres.program()
    # The data is deleted with the server, so it need not survive a power cut. It survives crashes of processes.
    command = [*program.command, "-c", "fsync=off", "-c", "full_page_writes=off"]
    server = subprocess.Popen(
        command, cwd=program.folder, user=program.user, start_new_session=True, preexec_fn=_die_with_the_keeper
    )
    try:
        with pipe.open("rb") as held:
            held.read()
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        postgres.remove()


def _die_with_the_keeper() -> None:
    # Even a killed keeper leaves no server behind (on Linux; elsewhere only a keeper that was asked to stop).
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _stop(*_: object) -> None:
    sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests; when they end, this ends
    signal.signal(signal.SIGTERM, _stop)
    keep(Home(Path(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3]))
