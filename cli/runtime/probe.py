"""One question over HTTP: does it answer?"""

from __future__ import annotations

import urllib.error
import urllib.request

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # these addresses never go by a proxy


def answers(url: str, seconds: float = 3) -> bool:
    """Whether `url` answers 200 within `seconds`."""
    try:
        with _opener.open(url, timeout=seconds) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
