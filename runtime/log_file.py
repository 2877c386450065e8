"""A log file that is rotated while it is read: nothing of it is lost, and nothing is read twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Final

BACKUPS: Final = 2
"""Older files that are kept: `name.1` is the one before, `name.2` that before it."""


class LogFile:
    """What is written to a log from now on; `from_start`: and all that is kept of it, before.

    A file is read to its end before the one that came after it. All of them are known by what they are, not by their
    names, which change at a rotation.
    """

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        self._names = [path, *(path.with_name(f"{path.name}.{n}") for n in range(1, BACKUPS + 1))]
        self._rest = b""
        self._file: IO[bytes] | None = None
        if not from_start:
            self._file = _open(path)
            if self._file:
                self._file.seek(0, os.SEEK_END)

    def read(self) -> str:
        """The whole lines that have been written since the last call."""
        found = [self._rest]
        for file in self._following():
            if self._file:
                found.append(self._file.read())
                self._file.close()
            self._file = file
        if self._file:
            found.append(self._file.read())
        whole, end, self._rest = b"".join(found).rpartition(b"\n")
        return (whole + end).decode(errors="replace")

    def _following(self) -> list[IO[bytes]]:
        """The files after the one that is being read; all, if that is not kept any more."""
        later: list[IO[bytes]] = []
        for name in self._names:  # the newest first: a rotation meanwhile shows one of them twice, and hides none
            if (file := _open(name)) is None or (later and _same(file, later[0])):
                continue
            if self._file and _same(file, self._file):
                file.close()
                break
            later.insert(0, file)
        return later


def _open(path: Path) -> IO[bytes] | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _same(one: IO[bytes], other: IO[bytes]) -> bool:
    return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))
