"""The state folder of one system, and the lock on it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.problems import RuntimeProblem

PROJECT: Final = Path(__file__).resolve().parents[1]
"""The root of the clone that this package is installed from."""

_SOCKET_PATH_MAX: Final = 90
"""Linux allows 107 characters; supervisord appends its pid while it binds."""
_SHORT: Final = Path("/tmp")  # noqa: S108 - we create a subfolder that no other user can enter
_LOCK_WAIT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Home:
    """`ORDERFLOW_HOME`: data, logs and run-time files of one system. Different homes can run in parallel."""

    path: Path

    @classmethod
    def at(cls, path: str | os.PathLike[str] | None = None) -> Home:
        """The home at `path`; by default `.orderflow` in the project folder."""
        return cls(Path(path or PROJECT / ".orderflow").expanduser().resolve())

    @property
    def key(self) -> str:
        """Identifies this home in names that can't contain a path."""
        return hashlib.sha256(str(self.path).encode()).hexdigest()[:12]

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """Generated configuration, sockets, pids; not needed once the system is down."""
        return self.path / "run"

    @property
    def state(self) -> Path:
        """Passwords, and the settings of the running system."""
        return self.path / "state"

    @property
    def localstack(self) -> Path:
        return self.path / "localstack"

    @property
    def socket(self) -> Path:
        """supervisord's socket; under /tmp if the home's path is too long for a socket. It depends on the home only:
        another shell, with another TMPDIR, must find the same system."""
        near = self.run / "supervisor.sock"
        if len(str(near)) <= _SOCKET_PATH_MAX:
            return near
        return _SHORT / f"orderflow-{os.getuid()}-{self.key}" / "supervisor.sock"

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    def make(self) -> None:
        """Creates the folders. Raises RuntimeProblem if permissions forbid it."""
        try:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
            for folder in (self.logs, self.run, self.state, self.localstack / "tmp", self.socket.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.run / "writable").touch()
            if self.socket.parent.stat().st_uid != os.getuid():
                raise PermissionError(errno.EPERM, f"{self.socket.parent} is another user's")
        except OSError as error:
            raise RuntimeProblem(
                f"The state folder {self.path} can't be written: {error.strerror}.",
                "Give yourself the right to write it, or choose another: ORDERFLOW_HOME=<folder>",
            ) from error

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds the lock: one `up`, `down` or `reset` at a time. Waits up to 30 s, then raises RuntimeProblem."""
        self.make()
        with (self.run / "lock").open("a+") as file:
            ends = time.monotonic() + _LOCK_WAIT_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > ends:
                        raise RuntimeProblem(
                            f"Another orderflow command is at work on {self.path}.",
                            "Wait for it to end, then try again.",
                        ) from None
                    time.sleep(0.1)
            yield


def write_private(path: Path, text: str) -> None:
    """Replaces `path` atomically by a file that only its owner can read."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    part.replace(path)
