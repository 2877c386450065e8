"""Tracing never affects the handling of a message: if a hook fails, only its span is lost."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

import structlog

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_logged: Final = set[tuple[str, type[Exception]]]()


def harmless(hook: Callable[P, T]) -> Callable[P, T | None]:
    """Wraps `hook` so that it returns None instead of raising. The first error of each class is logged."""

    @wraps(hook)
    def run(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return hook(*args, **kwargs)
        except Exception as error:
            if (kind := (hook.__qualname__, type(error))) not in _logged:
                _logged.add(kind)
                log.exception("tracing failed; messages are handled without it", hook=hook.__qualname__)
            return None

    return run
