"""An operator's retry of all orders that need attention, one page at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from client.api import Api, Json

_PAGE: Final = 100
"""Orders per request, and per second, so that the work they cause does not delay other orders."""


def pages(api: Api, wanted: Json) -> Iterator[Json]:
    """Retries the orders that a filter selects, page by page, and yields each request's result. Raises ApiProblem."""
    cursor: Json = {}
    while True:
        began = time.monotonic()
        page = api.post("order", "/orders/retry", wanted | cursor | {"limit": _PAGE}, operator=True)
        yield page
        if not page["more"]:
            return
        cursor = {"cursor": page["cursor"]}
        time.sleep(max(0.0, 1.0 - (time.monotonic() - began)))
