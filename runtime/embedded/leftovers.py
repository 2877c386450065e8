"""Finds and ends processes that a crashed run left behind."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psutil

from runtime.embedded.supervisor import MARKER
from runtime.home import Home

_GRACE_SECONDS: Final = 5.0


def find(home: Home, data: Path | None = None) -> list[psutil.Process]:
    """Every process of the system at `home`, supervisord first. `data` is the folder of its PostgreSQL.

    PostgreSQL's children overwrite their environment with their title, so they are found by their working folder.
    """
    own = {p.pid for p in (psutil.Process(), *psutil.Process().parents())}
    found = [p for p in psutil.process_iter() if p.pid not in own and _belongs(p, str(home.path), data)]
    return sorted(found, key=lambda p: (not _is_supervisor(p), p.pid))


def end(processes: Iterable[psutil.Process]) -> int:
    """Terminates `processes`, and kills them after 5 s. Returns their number."""
    processes = list(processes)
    for process in processes:
        try:
            if _is_supervisor(process):
                process.kill()  # or it would restart the processes that are ended below
            else:
                process.send_signal(signal.SIGINT if process.name() == "postgres" else signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=_GRACE_SECONDS)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=_GRACE_SECONDS)
    return len(processes)


def served(data: Path) -> bool:
    """Whether a PostgreSQL process uses this folder."""
    return any(_serves(process, data) for process in psutil.process_iter())


def _serves(process: psutil.Process, data: Path) -> bool:
    try:
        return process.name() == "postgres" and process.cwd() == str(data)
    except (psutil.Error, OSError):  # another user's process, or it has ended
        return False


def _belongs(process: psutil.Process, home: str, data: Path | None) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(MARKER) == home:
            return True
    except (psutil.Error, OSError):  # another user's process, or it has ended
        return False
    return data is not None and _serves(process, data)


def _is_supervisor(process: psutil.Process) -> bool:
    try:
        return "supervisor.supervisord" in process.cmdline()
    except psutil.Error:
        return False
