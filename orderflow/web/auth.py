"""Who may call what: bearer keys, and no posts from other sites' pages."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_address
from typing import Final, Literal
from urllib.parse import urlsplit

from flask import g, request
from pydantic import SecretStr

from orderflow.errors import Problem
from orderflow.settings import Settings

Access = Literal["open", "customer", "operator"]
"""Who may call a view: anybody; holders of an API key or operator key; holders of an operator key."""

_WAY_OUT: Final = "an operator can name the site in ORDERFLOW_TRUSTED_ORIGINS, or let the proxy pass the Host on"

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def guard(settings: Settings, access: Callable[[str], Access]) -> Callable[[], None]:
    """A check to run before each request. `access` says who may call an endpoint. The check raises Problem 401 or 403,
    and stores the caller's key in `flask.g.caller`."""
    api_keys, operator_keys = _encoded(settings.orderflow_api_keys), _encoded(settings.orderflow_operator_keys)
    with_keys = settings.orderflow_auth == "key"
    trusted = frozenset(settings.orderflow_trusted_origins)

    def check() -> None:
        if request.method not in _SAFE:
            _same_site(trusted, loopback_only=not with_keys)
        if not with_keys or request.endpoint is None:
            return
        needed = access(request.endpoint)
        if needed == "open":
            return
        key = g.caller = _bearer()
        if _matches(key, operator_keys):
            return
        if not _matches(key, api_keys):
            raise _unauthorized("the key is unknown", 'Bearer realm="orderflow", error="invalid_token"')
        if needed == "operator":
            raise Problem(
                403,
                "Forbidden",
                "this is for operators: use one of ORDERFLOW_OPERATOR_KEYS",
                headers={"WWW-Authenticate": 'Bearer realm="orderflow", error="insufficient_scope"'},
            )

    return check


def _encoded(keys: Sequence[SecretStr]) -> tuple[bytes, ...]:
    return tuple(key.get_secret_value().encode() for key in keys)


def _bearer() -> bytes:
    given = request.environ.get("HTTP_AUTHORIZATION", "")
    scheme, _, key = given.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise _unauthorized("send Authorization: Bearer <key>", 'Bearer realm="orderflow"')
    # WSGI decodes headers as latin-1, whatever their encoding.
    return bytes(key.strip().encode("latin-1", "replace"))


def _matches(key: bytes, keys: Sequence[bytes]) -> bool:
    # Every key is compared, each in constant time, so that the response time reveals nothing.
    found = False
    for known in keys:
        found |= hmac.compare_digest(key, known)
    return found


def _unauthorized(detail: str, challenge: str) -> Problem:
    return Problem(401, "Unauthorized", detail, headers={"WWW-Authenticate": challenge})


def _same_site(trusted: Collection[str], *, loopback_only: bool) -> None:
    """Refuses requests that a page of another site makes a browser send. Programs send neither header."""
    environ = request.environ
    if environ.get("HTTP_ORIGIN", "").lower() in trusted:
        return
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        raise Problem(403, "Forbidden", f"posts from pages of other sites are refused (Sec-Fetch-Site); {_WAY_OUT}")
    origin = environ.get("HTTP_ORIGIN")
    if origin is None:
        return
    try:
        parts = urlsplit(origin)
        host, name = parts.netloc.lower(), parts.hostname or ""
    except ValueError:
        host = name = ""
    if not host or host != environ.get("HTTP_HOST", "").lower():
        raise Problem(403, "Forbidden", f"posts from pages of other sites are refused (Origin); {_WAY_OUT}")
    # Without keys, a foreign host name that resolves to this machine must not count as this site (DNS rebinding).
    if loopback_only and not _is_local(name):
        raise Problem(403, "Forbidden", f"without keys, pages may post from loopback only (Origin); {_WAY_OUT}")


def _is_local(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
