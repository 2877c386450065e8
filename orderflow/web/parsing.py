"""Reads requests strictly: it refuses what a model doesn't declare, and names the place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Annotated, Any, Final, NoReturn, TypeVar

from flask import request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import HTTPException

from orderflow.contracts import NUL
from orderflow.errors import FieldError, Problem
from orderflow.web.fields import LINE

MAX_BODY: Final = 64 * 1024
"""Bytes of the longest request body; a longer one is 413."""

_MAX_ERRORS: Final = 20
"""Maximum number of fields that one problem names."""

_SHOWN: Final = 100
"""Maximum characters of a caller's text that an answer repeats."""


class RequestModel(BaseModel):
    """Base of request bodies and queries, and of the models within them: no unknown field, no conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class OperatorRequest(RequestModel):
    """The operator and the reason; both are recorded."""

    by: Annotated[str, Field(min_length=1, max_length=100, pattern=LINE)]
    why: Annotated[str, Field(min_length=1, max_length=200, pattern=LINE)]


Model = TypeVar("Model", bound=RequestModel)


def body(model: type[Model], *, optional: bool = False) -> Model:
    """The JSON body of the current request as a `model`; `optional`: no body counts as `{}`.

    Raises Problem: 400 (not JSON, not UTF-8, duplicate keys), 413, 415, or 422 with an entry per field.
    """
    data = _received()
    if not data:
        if optional:
            data = b"{}"
        else:
            raise Problem(400, "Malformed request", "a JSON body is expected, and there is none")
    elif request.mimetype != "application/json" or request.content_encoding:
        shown = request.headers.get("Content-Encoding") or request.headers.get("Content-Type") or "none"
        raise Problem(
            415,
            "Unsupported Media Type",
            f"send Content-Type: application/json without a Content-Encoding, not {shown[:_SHOWN]!r}",
            headers={"Accept": "application/json"},
        )
    elif request.mimetype_params.get("charset", "utf-8").lower() != "utf-8":
        raise Problem(415, "Unsupported Media Type", "JSON is UTF-8; other charsets are not read")
    try:
        found = model.model_validate_json(data)
    except ValidationError as error:
        _refuse(error)
    _refuse_duplicates_and_nul(data)
    return found


def refuse_oversized() -> None:
    """Runs before each request: refuses a body over the limit, even one without a declared length that no view reads.
    Raises Problem."""
    length = request.content_length
    if length is not None and length > MAX_BODY:
        raise _too_long()
    environ = request.environ
    if length is None and environ.get("HTTP_TRANSFER_ENCODING"):
        with _reading():
            data = environ["wsgi.input"].read(MAX_BODY + 1)
        if len(data) > MAX_BODY:
            raise _too_long()
        # From now on views read this; werkzeug's own limit would truncate a long body instead of refusing it.
        environ["wsgi.input"] = BytesIO(data)


def _too_long() -> Problem:
    return Problem(413, "Content Too Large", f"the body is longer than {MAX_BODY} bytes")


def _received() -> bytes:
    with _reading():
        data = request.get_data(cache=True)
    # gunicorn ends the stream if the caller disconnects: what arrived may look complete but is not what was meant.
    if len(data) < (request.content_length or 0):
        raise Problem(400, "Malformed request", "the body ended before its Content-Length was reached")
    return data


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (Problem, HTTPException):
        raise
    except (TimeoutError, BlockingIOError):
        raise Problem(408, "Request Timeout", "the rest of the body did not come in time") from None
    except Exception as error:  # noqa: BLE001 - whatever the server raises for a broken body, the caller sent it
        raise Problem(400, "Malformed request", f"the body can't be read: {type(error).__name__}") from None


def query(model: type[Model]) -> Model:
    """The query parameters of the current request as a `model`. Raises Problem 422 with an entry per parameter."""
    given: dict[str, str] = {}
    for name, values in request.args.lists():
        if len(values) > 1:
            raise _wrong([FieldError(_pointer([name]), "is given more than once")])
        given[name] = values[0]
        if NUL in name + values[0] or "\ufffd" in name + values[0]:
            raise _wrong([FieldError(_pointer([name]), "holds NUL or is not UTF-8")])
    try:
        return model.model_validate_strings(given)
    except ValidationError as error:
        _refuse(error)


def validation_problem(error: ValidationError) -> Problem:
    """Problem 400 if the text is not JSON, otherwise 422 with an entry per field."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return Problem(400, "Malformed request", found[0]["msg"])
    places = [e["loc"] for e in found]
    return _wrong(
        [
            FieldError(_pointer(e["loc"]), _explain(e["type"], e["msg"]))
            for e in found
            # pydantic also reports a list with a wrong item as too short, which is not a separate error.
            if e["type"] != "too_short"
            or not any(len(p) > len(e["loc"]) and p[: len(e["loc"])] == e["loc"] for p in places)
        ]
    )


def _refuse(error: ValidationError) -> NoReturn:
    raise validation_problem(error) from None


def _explain(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "is not a known field"
    if kind == "missing":
        return "is required"
    return message.removeprefix("Value error, ")


def _wrong(errors: Sequence[FieldError]) -> Problem:
    more = f" (and {len(errors) - _MAX_ERRORS} more)" if len(errors) > _MAX_ERRORS else ""
    first = errors[0]
    return Problem(
        422,
        "Validation failed",
        f"{first.pointer or 'the document'}: {first.detail}{more}",
        errors=tuple(errors[:_MAX_ERRORS]),
    )


def _pointer(path: Sequence[Any]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(part)[:_SHOWN].replace("~", "~0").replace("/", "~1") for part in path)


def _refuse_duplicates_and_nul(data: bytes) -> None:
    """Refuses what pydantic accepts: duplicate keys, of which the last would silently win, and NUL, which PostgreSQL
    can't store. The data has been validated, so it is short, shallow and well-formed."""
    parsed = json.loads(data, object_pairs_hook=_unique)
    if b"\\u0000" in data and (place := next(_nul_places(parsed, ()), None)) is not None:
        raise _wrong([FieldError(_pointer(place), "holds the character NUL")])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Problem(400, "Malformed request", f"the key {twice[:_SHOWN]!r} is given more than once in one object")
    return found


def _nul_places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, str) and NUL in value:
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _nul_places(key, (*path, key))
        yield from _nul_places(part, (*path, key))
