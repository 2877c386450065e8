"""Reads a log file while it is rotated: no line is lost, and none is read twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Final

BACKUPS: Final = 2
"""Number of rotated files: `name.1` is the previous one, `name.2` the one before."""


class LogFile:
    """Lines written to a log from now on; with `from_start`, the kept lines first.

    Each file is read to its end before the next newer one. Files are identified by inode, as rotation renames them.
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
        """The complete lines written since the last call."""
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
        """The files newer than the current one; all files if that has been deleted."""
        later: list[IO[bytes]] = []
        for name in self._names:  # newest first: a rotation during the loop shows one file twice, but hides none
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
