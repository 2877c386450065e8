"""The error that users see: what happened, and what to do about it."""

from __future__ import annotations


class RuntimeProblem(Exception):
    """Something that a user can fix: `what` happened, and the `way_out`."""

    def __init__(self, what: str, way_out: str) -> None:
        super().__init__(f"{what}\n{way_out}")
        self.what = what
        self.way_out = way_out
