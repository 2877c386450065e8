"""The error that users see: what happened, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class RuntimeProblem(Exception):
    """Something that a user can fix: `what` happened, and the `way_out`."""

    def __init__(self, what: str, way_out: str) -> None:
        super().__init__(f"{what}\n{way_out}")
        self.what = what
        self.way_out = way_out


@contextmanager
def rolled_back(stop: Callable[[], object]) -> Iterator[None]:
    """Calls `stop` if the block fails, also by Ctrl-C; a RuntimeProblem then says that all is stopped again."""
    try:
        yield
    except BaseException as error:
        stop()
        if isinstance(error, RuntimeProblem):
            raise RuntimeProblem(error.what, f"{error.way_out}\nWhat had been started is stopped again.") from error
        raise
