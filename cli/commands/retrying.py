"""An operator's retry of all orders that need attention, some at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from client.api import Api, Json

_PAGE: Final = 100
"""Orders of one request; and of one second, so that what they cause does not hold up the others."""


def pages(api: Api, wanted: Json) -> Iterator[Json]:
    """Retries what a filter names, page by page; what each request came to. Raises ApiProblem."""
    cursor: Json = {}
    while True:
        began = time.monotonic()
        page = api.post("order", "/orders/retry", wanted | cursor | {"limit": _PAGE}, operator=True)
        yield page
        if not page["more"]:
            return
        cursor = {"cursor": page["cursor"]}
        time.sleep(max(0.0, 1.0 - (time.monotonic() - began)))
