"""What a running system's services log from some moment on: their log files span the whole test session."""

from __future__ import annotations

from tests.support.system import System


class LoggedSince:
    """Begins now. It remembers the existing lines, because tests set the clocks wrong that give lines their times."""

    def __init__(self, system: System, *services: str) -> None:
        self._system = system
        self._before = {service: system.runtime.logs(service) for service in services}

    def lines(self, text: str) -> list[str]:
        """The lines since then that contain `text`."""
        return [line for service in self._before for line in self._since(service).splitlines() if text in line]

    def _since(self, service: str) -> str:
        before, now = self._before[service], self._system.runtime.logs(service)
        # A file that grew too large has been rotated meanwhile: then every line of the next one is newer.
        return now[len(before) :] if now.startswith(before) else now
