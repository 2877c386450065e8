"""`Idempotency-Key` for views: an effect happens once, and its answer can be requested again.

    @api.post("/stock/<sku:sku>/restock")
    @operation("Adds pieces", body=RestockRequest, idempotent="key", …)
    def restock(sku: str) -> Answer:
        asked = body(RestockRequest)
        return once(outbox, asked, lambda unit: …)

A key is scoped to its caller (the API key), to the service and to the route. A repeated request must have the same path
and body.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from flask import Response, current_app, g, request

from orderflow import idempotency
from orderflow.errors import FieldError, Problem, Transient
from orderflow.idempotency import Key, Reply, Steps
from orderflow.messaging.outbox import Outbox, UnitOfWork
from orderflow.web.operations import Answer
from orderflow.web.parsing import RequestModel
from orderflow.web.turns import Turns

HEADER: Final = "Idempotency-Key"
REPLAYED: Final[Mapping[str, str]] = {"Idempotent-Replayed": "true"}
LONGEST: Final = 255
"""Maximum characters of a key."""

EXTENSION: Final = "orderflow.turns"
"""The key under which an application stores its Turns."""

_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
"""A string of a structured field: https://www.rfc-editor.org/rfc/rfc8941#section-3.3.3"""

_OWN_HEADERS: Final = frozenset({"content-type", "content-length"})


def once(outbox: Outbox, asked: RequestModel, effect: Callable[[UnitOfWork], Answer]) -> Response:
    """The answer of `effect`, which runs in a transaction; or the stored one, if the request's key is known.

    Raises what `effect` raises, and then stores nothing; Problem: 422 (an invalid key, or one of another request), 503
    (its first request has not ended); and Transient."""
    key = key_of(asked)
    if key is None:
        with outbox.transaction() as unit:
            return _rendered(effect(unit))
    with turns().take(key), outbox.transaction() as unit:
        if idempotency.claim(unit.connection, key)() is None:
            return replayed(idempotency.known(unit.connection, key))
        answer = _rendered(effect(unit))
        idempotency.store(unit.connection, key, _reply(answer))
    return answer


def in_steps(outbox: Outbox, asked: RequestModel, effect: Callable[[Steps | None], Answer]) -> Response:
    """Like `once`, for an effect in several transactions, which records each in its Steps before it acts. Without a key
    there are no Steps. After an error, a repeated request with the key continues."""
    key = key_of(asked)
    if key is None:
        return _rendered(effect(None))
    steps = Steps(key)
    with turns().take(key):
        try:
            with outbox.transaction() as unit:
                if not steps.begin(unit.connection):
                    return replayed(idempotency.known(unit.connection, key))
            answer = _rendered(effect(steps))
            with outbox.transaction() as unit:
                steps.finish(unit.connection, _reply(answer))
        except BaseException:
            with suppress(Transient), outbox.transaction() as unit:
                steps.release(unit.connection)
            raise
    return answer


def turns() -> Turns:
    """The Turns of the current application."""
    found: Turns = current_app.extensions[EXTENSION]
    return found


def key_of(asked: RequestModel) -> Key | None:
    """The current request's key, or None. Raises Problem (422)."""
    value = given()
    if value is None:
        return None
    route = request.url_rule.rule if request.url_rule else request.path
    scope = [current_app.name, request.method, route]
    # Without defaults, so that a body keeps its fingerprint when a later version knows another optional field.
    meant = [*(request.view_args or {}).values(), asked.model_dump_json(exclude_defaults=True)]
    return Key(
        hashlib.sha256("\0".join(scope).encode() + b"\0" + g.get("caller", b"")).digest(),
        value,
        hashlib.sha256("\0".join(map(str, meant)).encode()).digest(),
    )


def given() -> str | None:
    """The key in the current request's header, or None without one. Raises Problem (422).

    The draft requires the string of a structured field, but most callers send the bare key: both forms mean the same
    key. A proxy may send the header twice, and WSGI joins the two with a comma: that must not make another key of
    it."""
    raw = request.headers.get(HEADER)
    if raw is None:
        return None
    values = {_unquoted(part) for part in _parts(raw)}
    if len(values) > 1:
        raise _wrong("is given more than once, with different values (put quotes around a key with a comma)")
    value = values.pop()
    if not 0 < len(value) <= LONGEST or not value.isprintable():
        raise _wrong(f"1 to {LONGEST} printable characters, not {len(value)}")
    return value


def one_line(raw: str) -> str:
    """The value of one header line, for a server that joins several: a bare key with a comma gets quotes, because
    otherwise it would look like two."""
    if '"' in raw or len(set(_parts(raw))) == 1:
        return raw
    return '"' + raw.strip(" \t").replace("\\", "\\\\") + '"'


def _parts(raw: str) -> list[str]:
    """The parts that were joined by commas, except for commas within quotes."""
    found, at = [], 0
    while True:
        while raw[at : at + 1] in (" ", "\t"):
            at += 1
        quoted = _QUOTED.match(raw, at)
        end = raw.find(",", quoted.end() if quoted else at)
        found.append(raw[at : end if end >= 0 else len(raw)].strip(" \t"))
        if end < 0:
            return found
        at = end + 1


def _unquoted(part: str) -> str:
    if not part.startswith('"'):
        return part
    quoted = _QUOTED.fullmatch(part)
    if quoted is None:
        raise _wrong("is not a whole string in quotes")
    return re.sub(r"\\(.)", r"\1", quoted[1])


def _wrong(detail: str) -> Problem:
    return Problem(422, "Invalid idempotency key", f"{HEADER}: {detail}", (FieldError(f"/{HEADER}", detail),))


def replayed(reply: Reply) -> Response:
    """A stored answer, sent again."""
    return Response(reply.body, reply.status, {**reply.headers, **REPLAYED}, content_type="application/json")


def _rendered(answer: Answer) -> Response:
    content: Any = answer  # may be a model: `orderflow.web.app.App` accepts these
    return current_app.make_response(content)


def _reply(answer: Response) -> Reply:
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN_HEADERS}
    return Reply(answer.status_code, answer.get_data(as_text=True), headers)
