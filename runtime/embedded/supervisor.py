"""supervisord: its configuration, its start, and its RPC interface."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from runtime.embedded.programs import STOP_SECONDS, Program
from runtime.home import Home, write_private
from runtime.log_file import BACKUPS
from runtime.problems import RuntimeProblem

MARKER: Final = "ORDERFLOW_SUPERVISED"
"""Variable in the environment of every process of a system; its value is the home. Leftovers are found by it."""

_EXEC: Final = '/bin/sh -c \'. "$0" && exec "$@"\''
_GIVE_UP_AFTER: Final = 20
"""Consecutive failed starts before supervisord gives up; the pause before each grows by one second."""


@dataclass(frozen=True, slots=True)
class Process:
    """A program's state according to supervisord."""

    name: str
    state: str
    """STOPPED, STARTING, RUNNING, BACKOFF (died, will be restarted), STOPPING, EXITED or FATAL (no more restarts)."""
    pid: int
    """0 if there is no process."""
    started: float
    """The time of its last start, as seconds since the epoch."""
    uptime: float
    """Seconds; 0 if there is no process."""


def render(home: Home, programs: Iterable[Program]) -> str:
    """The text of supervisord.conf."""
    user = "user=root\n" if os.getuid() == 0 else ""  # without it supervisord warns at every start
    socket = _escape(str(home.socket))
    sections = [
        f"[unix_http_server]\nfile={socket}\nchmod=0700\n",
        f"[supervisord]\nlogfile={_escape(str(home.log('supervisord')))}\nlogfile_maxbytes=5MB\nlogfile_backups=1\n"
        f"pidfile={_escape(str(home.run / 'supervisord.pid'))}\nchildlogdir={_escape(str(home.logs))}\n"
        f"directory={_escape(str(home.run))}\nidentifier=orderflow\numask=077\n{user}",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
        *(_section(home, program) for program in programs),
    ]
    return "\n".join(sections)


def _section(home: Home, program: Program) -> str:
    command = " ".join(_quote(word) for word in program.command)
    if program.environment:
        command = f"{_EXEC} {_quote(str(_environment_file(home, program)))} {command}"
    lines = {
        "command": _escape(command),
        "directory": _escape(str(program.folder)),
        "environment": f'ORDERFLOW_CONFIG="{program.digest()}"',
        "autostart": "false",  # `up` starts them in the order of their dependencies
        "autorestart": "true",
        "startsecs": "1",
        "startretries": str(_GIVE_UP_AFTER),
        "stopsignal": program.stop_signal,
        "stopwaitsecs": str(STOP_SECONDS),
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": _escape(_escape(str(home.log(program.name)))),  # supervisord expands this one twice
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": str(BACKUPS),
    }
    if program.user:
        lines["user"] = program.user
    return f"[program:{program.name}]\n" + "".join(f"{key}={value}\n" for key, value in lines.items())


def _environment_file(home: Home, program: Program) -> Any:
    return home.run / f"{program.name}.env.sh"


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def _quote(word: str) -> str:
    if any(c in word for c in '"\\\n;#'):
        raise RuntimeProblem(
            f"The path {word!r} has a quote, backslash, semicolon, number sign or line break in it.",
            "Move the project to a folder with a simpler name.",
        )
    return f'"{word}"'


class Supervisor:
    """The supervisord of one home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._conf = home.run / "supervisord.conf"

    @property
    def _rpc(self) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._home.socket}")
        return ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def pid(self) -> int | None:
        """The pid of the running supervisord; None if none answers."""
        try:
            return int(self._rpc.getPID())
        except OSError:
            return None
        except Fault:  # it is shutting down
            return None

    def write(self, programs: Iterable[Program]) -> None:
        """Writes the configuration and the environments."""
        programs = list(programs)
        for program in programs:
            write_private(_environment_file(self._home, program), program.environment_file())
        write_private(self._conf, render(self._home, programs))

    def start_daemon(self, environment: dict[str, str], timeout: float = 10) -> None:
        """Starts supervisord in the background without any program. Raises RuntimeProblem if it doesn't start."""
        self._home.socket.unlink(missing_ok=True)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._conf)]
        made = subprocess.run(
            command, env=environment | {MARKER: str(self._home.path)}, capture_output=True, text=True, check=False
        )
        ends = time.monotonic() + timeout
        while made.returncode == 0 and time.monotonic() < ends:
            if self.pid():
                return
            time.sleep(0.02)
        raise RuntimeProblem(
            f"The supervisor didn't start: {(made.stderr or made.stdout).strip() or 'it gave no reason'}",
            f"See {self._home.log('supervisord')}.",
        )

    def reload(self) -> list[str]:
        """Loads the written configuration; stops changed and removed programs. Returns the changed ones' names."""
        added, changed, removed = self._rpc.reloadConfig()[0]
        self.stop(changed + removed)
        for name in changed + removed:
            self._rpc.removeProcessGroup(name)
        for name in changed + added:
            self._rpc.addProcessGroup(name)
        return list(changed)

    def processes(self) -> dict[str, Process]:
        """All programs by name; empty if no supervisord answers."""
        try:
            infos = self._rpc.getAllProcessInfo()
        except (OSError, Fault):
            return {}
        return {
            str(i["name"]): Process(
                name=str(i["name"]),
                state=str(i["statename"]),
                pid=int(i["pid"]),
                started=float(i["start"]),
                uptime=float(i["now"] - i["start"]) if i["pid"] else 0.0,
            )
            for i in infos
        }

    def start(self, name: str) -> None:
        """Starts a program without waiting for it. Does nothing if it is running."""
        try:
            self._rpc.startProcess(name, False)
        except Fault as fault:
            if fault.faultCode not in (Faults.ALREADY_STARTED,):
                raise RuntimeProblem(
                    f"{name} can't be started: {fault.faultString}", f"See {self._home.log(name)}."
                ) from fault

    def stop(self, names: Iterable[str]) -> None:
        """Stops programs in parallel and waits until they have ended; after their stop time they are killed."""
        waiting = set(names)
        for name in waiting:
            try:
                self._rpc.stopProcess(name, False)
            except Fault as fault:
                if fault.faultCode not in (Faults.NOT_RUNNING, Faults.BAD_NAME):
                    raise
        ends = time.monotonic() + STOP_SECONDS + 5
        while waiting and time.monotonic() < ends:
            processes = self.processes()
            waiting = {n for n in waiting if n in processes and processes[n].pid}
            if waiting:
                time.sleep(0.05)

    def shutdown(self) -> None:
        """Stops supervisord and waits until it has ended."""
        pid = self.pid()
        if pid is None:
            return
        process = psutil.Process(pid)
        self._rpc.shutdown()
        try:
            process.wait(timeout=STOP_SECONDS + 5)
        except psutil.TimeoutExpired:
            process.kill()
