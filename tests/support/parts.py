"""Single parts of a system under the embedded runtime, stopped, started and killed: only tests do that."""

from __future__ import annotations

import signal
from functools import singledispatch

import psutil

from runtime import EmbeddedRuntime
from runtime.embedded.supervisor import Supervisor


def kill(runtime: EmbeddedRuntime, name: str, number: int = signal.SIGKILL) -> int:
    """Sends a signal to a part with all its children, as when a container is killed. Returns the pid.

    SIGKILL: the supervisor starts it again. SIGSTOP and SIGCONT pause it.
    """
    pid = runtime.pid(name)
    if not pid:
        raise LookupError(f"{name} isn't running")
    main = psutil.Process(pid)
    # Suspended first: children that it forks while the others are looked up would outlive it. A PostgreSQL backend that
    # then waits for a lock of a killed one waits forever, and no other server may start beside it.
    if number == signal.SIGKILL:
        main.suspend()
    for process in (main, *main.children(recursive=True)):
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
    return pid


@singledispatch
def stop(runtime: EmbeddedRuntime, name: str) -> None:
    """Stops one part gracefully; it stays down until `start`."""
    Supervisor(runtime.home).stop([name])


@singledispatch
def start(runtime: EmbeddedRuntime, name: str) -> None:
    """Starts one part that was stopped, without waiting until it is ready."""
    Supervisor(runtime.home).start(name)
