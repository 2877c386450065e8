"""Probes an HTTP endpoint: does it answer 200, and if not, why?"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Final

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # local addresses never go through a proxy

_SHOWN: Final = 300
"""Maximum length of a response that is quoted."""


def answers(url: str, seconds: float = 3) -> bool:
    """Whether `url` answers 200 within `seconds`."""
    return refusal(url, seconds) is None


def refusal(url: str, seconds: float = 3) -> str | None:
    """Why `url` doesn't answer 200 within `seconds`: the detail of its problem document (RFC 9457); None if it does."""
    try:
        with _opener.open(url, timeout=seconds) as answer:
            return None if answer.status == 200 else f"HTTP {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP {error.code}: {_detail(error)}"
    except (OSError, urllib.error.URLError) as error:
        return str(getattr(error, "reason", error))


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        text = error.read().decode(errors="replace")
    except OSError:
        return error.reason
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, LookupError, TypeError):
        return text[:_SHOWN] or error.reason
