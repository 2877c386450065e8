"""The logs of containers, read incrementally: Docker is asked for new lines only."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from runtime.containers.docker import Compose

_LINE: Final = re.compile(r"^(?P<part>[a-z-]+?)-(?P<number>\d+) +\| (?P<at>\d{4}-\S+Z) ?(?P<text>.*)$")
_FRESH_SECONDS: Final = 0.5
"""Readers ask for one part after the other; one `docker compose logs` serves them all."""
_FOLLOW_SECONDS: Final = 2.0
"""Each read starts a process, and followers poll continuously."""


class ContainerLogs:
    """The lines of all parts of one project that Docker keeps (three files of 10 MB each)."""

    def __init__(self, compose: Callable[[], Compose]) -> None:
        self._compose = compose
        self._texts: defaultdict[str, list[str]] = defaultdict(list)
        self._last: dict[tuple[str, str], str] = {}
        self._read_at = float("-inf")

    def text(self, part: str) -> str:
        """All kept lines of `part`: `payment`, or one of several containers, `payment-worker-2`."""
        self._read(_FRESH_SECONDS)
        return "".join(self._texts[part])

    def follow(self, part: str, *, from_start: bool) -> Callable[[], str]:
        """See `Runtime.follow`."""
        self._read(_FRESH_SECONDS)
        given = 0 if from_start else len(self._texts[part])

        def more() -> str:
            nonlocal given
            self._read(_FOLLOW_SECONDS)
            lines = self._texts[part][given:]
            given += len(lines)
            return "".join(lines)

        return more

    def _read(self, fresh: float) -> None:
        if time.monotonic() - self._read_at <= fresh:
            return
        since = ("--since", max(self._last.values())[:19] + "Z") if self._last else ()
        for line in self._compose().run("logs", "--no-color", "--timestamps", *since).stdout.splitlines():
            if found := _LINE.match(line):
                self._add(found["part"], found["number"], found["at"], found["text"])
        self._read_at = time.monotonic()

    def _add(self, part: str, number: str, at: str, text: str) -> None:
        if at <= self._last.get((part, number), ""):  # already seen: --since has whole seconds only
            return
        self._last[part, number] = at
        name = f"{part}-{number}" if part.endswith("-worker") else part
        self._texts[name].append(text + "\n")
