"""Single parts of a system in containers, stopped, started, killed, paused and scaled: only tests do that."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from runtime import ContainerRuntime
from runtime.containers.docker import Container, ask


def pid(runtime: ContainerRuntime, name: str) -> int:
    """The pid of a part's first process, as the engine's machine sees it; 0 where it isn't running."""
    return next((c.pid for c in _of(runtime, name) if c.status == "running"), 0)


def kill(runtime: ContainerRuntime, name: str) -> int:
    """`docker kill` of a part. Returns the pid it had.

    Docker takes that for a decision and doesn't start the container again: `start` does. `crash` is a death that its
    restart policy makes good.
    """
    found = [c for c in _of(runtime, name) if c.status in ("running", "paused")]
    if not found:
        raise LookupError(f"{name} isn't running")
    ask("kill", "--signal", str(int(signal.SIGKILL)), *(c.id for c in found))
    return found[0].pid


def crash(runtime: ContainerRuntime, name: str) -> int:
    """kill -9 of a part's first process behind Docker's back, with all its children. Returns its pid.

    Needs root on the engine's own machine; raises PermissionError or ProcessLookupError elsewhere.
    """
    killed = pid(runtime, name)
    if not killed:
        raise LookupError(f"{name} isn't running")
    os.kill(killed, signal.SIGKILL)
    return killed


def stop(runtime: ContainerRuntime, name: str) -> None:
    """Stops a part gracefully; it stays down until `start`."""
    if found := _of(runtime, name):
        ask("stop", *(c.id for c in found), seconds=60)


def start(runtime: ContainerRuntime, name: str) -> None:
    """Starts a part that was stopped or killed, without waiting until it is ready."""
    if found := _of(runtime, name):
        ask("start", *(c.id for c in found))


@contextmanager
def paused(runtime: ContainerRuntime, name: str) -> Iterator[None]:
    """A part that stands still for a while, with all its processes."""
    found = [c.id for c in _of(runtime, name) if c.status == "running"]
    if not found:
        raise LookupError(f"{name} isn't running")
    ask("pause", *found)
    try:
        yield
    finally:
        ask("unpause", *found)


def scale(runtime: ContainerRuntime, service: str, count: int) -> None:
    """`docker compose up --scale`; nothing else is touched."""
    done = runtime.compose().run(
        "up", "--detach", "--no-build", "--no-recreate", "--no-deps", "--scale", f"{service}={count}", service
    )
    assert done.returncode == 0, f"{service} can't be scaled: {done.stderr.strip()[-500:]}"


def _of(runtime: ContainerRuntime, name: str) -> list[Container]:
    return [c for c in runtime.containers() if name in (c.name, c.service)]
