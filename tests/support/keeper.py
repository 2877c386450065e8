"""Keeps a PostgreSQL server for as long as any test process holds the pipe, however those processes end."""

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
    """Runs the server until the last writer of `pipe` is gone; then removes its data."""
    postgres = Postgres(home, port)
    program = postgres.program()
    # The data is thrown away with the server: nothing needs to survive a power cut. Crashes of processes it survives.
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
    # Also a keeper that was killed leaves no server behind (on Linux; elsewhere only one that was asked to stop).
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _stop(*_: object) -> None:
    sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, whose end ends this
    signal.signal(signal.SIGTERM, _stop)
    keep(Home(Path(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3]))
