"""What stops a system from starting, said so that its reader can go on."""

from __future__ import annotations


class RuntimeProblem(Exception):
    """Something a user can put right: `what` happened, and the `way_out` of it."""

    def __init__(self, what: str, way_out: str) -> None:
        super().__init__(f"{what}\n{way_out}")
        self.what = what
        self.way_out = way_out
