"""What the services of a running system log from some moment on: its log files are those of the whole test session."""

from __future__ import annotations

from tests.support.system import System


class LoggedSince:
    """Begins with now. Goes by what was there, as the times in the lines are those of clocks that tests set wrong."""

    def __init__(self, system: System, *services: str) -> None:
        self._system = system
        self._before = {service: system.runtime.logs(service) for service in services}

    def lines(self, text: str) -> list[str]:
        """The lines since then that hold `text`."""
        return [line for service in self._before for line in self._since(service).splitlines() if text in line]

    def _since(self, service: str) -> str:
        before, now = self._before[service], self._system.runtime.logs(service)
        # A file that has grown too large is put aside meanwhile: then all of the next one is newer.
        return now[len(before) :] if now.startswith(before) else now
