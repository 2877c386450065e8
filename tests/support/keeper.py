"""Keeps a PostgreSQL server for as long as any test process holds the pipe, however those processes end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from cli.runtime.home import Home
from cli.runtime.postgres import Postgres


def keep(home: Home, port: int, pipe: Path) -> None:
    """Runs the server until the last writer of `pipe` is gone; then removes its data."""
    postgres = Postgres(home, port)
    program = postgres.program()
    # The data is thrown away with the server: nothing needs to survive a power cut. Crashes of processes it survives.
    command = [*program.command, "-c", "fsync=off", "-c", "full_page_writes=off"]
    server = subprocess.Popen(command, cwd=program.folder, user=program.user, start_new_session=True)
    try:
        with pipe.open("rb") as held:
            held.read()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(10)
        postgres.remove()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, whose end ends this
    keep(Home(Path(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3]))
