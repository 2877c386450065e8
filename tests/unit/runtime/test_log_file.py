"""A log that is rotated while it is followed: every line once, in order."""

from __future__ import annotations

import logging
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest

from runtime.log_file import BACKUPS, LogFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "order.log"


def rotate(path: Path) -> None:
    """As supervisord does."""
    for number in range(BACKUPS, 0, -1):
        younger = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
        if younger.exists():
            younger.rename(path.with_name(f"{path.name}.{number}"))


def write(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_what_is_written_from_now_on(path: Path) -> None:
    write(path, "before\n")
    log = LogFile(path)
    assert log.read() == ""
    write(path, "one\ntwo\n")
    assert log.read() == "one\ntwo\n"
    assert log.read() == ""


def test_a_file_that_is_not_there_yet(path: Path) -> None:
    log = LogFile(path)
    assert log.read() == ""
    write(path, "one\n")
    assert log.read() == "one\n"


def test_half_a_line_waits_for_the_rest(path: Path) -> None:
    """A character of several bytes too, and a rotation in between."""
    log = LogFile(path)
    path.write_bytes(b"one\nt\xc3")
    assert log.read() == "one\n"
    with path.open("ab") as file:
        file.write(b"\xb6o\nth")
    assert log.read() == "t\N{LATIN SMALL LETTER O WITH DIAERESIS}o\n"
    rotate(path)
    write(path, "ree\n")
    assert log.read() == "three\n"


@pytest.mark.parametrize("rotations", [1, 2])
def test_a_rotation_loses_nothing(path: Path, rotations: int) -> None:
    """What was written before it is read first; a shorter file, or one as long, is not taken for the same."""
    write(path, "seen\n")
    log = LogFile(path)
    for number in range(rotations):
        write(path, f"before {number}\n")
        rotate(path)
    write(path, "after\n")
    assert log.read() == "".join(f"before {n}\n" for n in range(rotations)) + "after\n"
    assert log.read() == ""


def test_where_it_was_is_not_kept_any_more(path: Path) -> None:
    """All that is kept came later."""
    write(path, "seen\n")
    log = LogFile(path)
    for number in range(BACKUPS + 2):
        rotate(path)
        write(path, f"{number}\n")
    assert log.read() == "".join(f"{number}\n" for number in range(1, BACKUPS + 2))


def test_from_the_start(path: Path) -> None:
    """With the older files, the oldest first."""
    for number in range(3):
        write(path, f"{number}\n")
        if number < 2:
            rotate(path)
    log = LogFile(path, from_start=True)
    assert log.read() == "0\n1\n2\n"
    write(path, "3\n")
    assert log.read() == "3\n"


def test_while_a_writer_rotates_all_the_time(path: Path) -> None:
    """It writes and rotates during each read, at most one batch ahead: less than what is kept."""
    handler = RotatingFileHandler(path, maxBytes=2_000, backupCount=BACKUPS)
    log = LogFile(path)
    written, read = threading.Semaphore(0), threading.Semaphore(1)
    batches, lines = 50, 100  # some 1,200 bytes each

    def keep_writing() -> None:
        for batch in range(batches):
            assert read.acquire(timeout=60)
            for number in range(lines):
                handler.emit(logging.makeLogRecord({"msg": f"line {batch:02} {number:03}"}))
            written.release()
        handler.close()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    found = ""
    for _ in range(batches):
        assert written.acquire(timeout=60)
        read.release()
        found += log.read()
    writer.join()
    found += log.read()
    assert found.splitlines() == [f"line {b:02} {n:03}" for b in range(batches) for n in range(lines)]
