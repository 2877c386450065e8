"""The state of one part of a system."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """One line of `orderflow status`."""

    name: str
    state: str
    """ready, unready (runs, but isn't ready), starting, restarting, stopping, failed (no more restarts) or stopped."""
    pid: int | None
    port: int
    uptime: float
    """Seconds; 0 if it isn't running."""
    url: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
