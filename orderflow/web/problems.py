"""Errors as answers in the form of RFC 9457 (problem+json): https://www.rfc-editor.org/rfc/rfc9457"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import structlog
from flask import Flask, Response, current_app, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from orderflow import telemetry
from orderflow.errors import Problem, Transient, UnknownOutcome
from orderflow.web.idempotency import HEADER
from orderflow.web.operations import declared
from orderflow.web.parsing import validation_problem

log = structlog.get_logger(__name__)

CONTENT_TYPE: Final = "application/problem+json"

_IN_A_PATH: Final = "/:@!$&'()*+,;=-._~"
"""Characters that stand for themselves in a URI's path: https://www.rfc-editor.org/rfc/rfc3986#section-3.3"""

_OWN_HEADERS: Final = frozenset({"content-type", "content-length"})


def install(app: Flask) -> None:
    """Makes every error of `app` a problem+json answer."""
    app.register_error_handler(Problem, _problem)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(ValidationError, lambda error: _problem(validation_problem(error)))
    app.register_error_handler(Transient, _transient)
    app.register_error_handler(Exception, _unexpected)


def not_found(what: str) -> Problem:
    """404 for something that doesn't exist, such as `order 0198…`."""
    return Problem(404, "Not Found", f"there is no {what}")


def answer(problem: Problem, extra: Mapping[str, Any] | None = None) -> Response:
    """The problem as an answer to the current request."""
    content: dict[str, Any] = {
        "type": _type_of(problem),
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": quote(request.path[:500], safe=_IN_A_PATH),
    }
    if problem.errors:
        content["errors"] = [{"pointer": e.pointer, "detail": e.detail} for e in problem.errors]
    if extra:
        content |= extra
    return Response(json.dumps(content), problem.status, problem.headers, content_type=CONTENT_TYPE)


def _type_of(problem: Problem) -> str:
    # RFC 9457 §4.2.1: about:blank if the title says no more than the status.
    if any(status == problem.status and status.phrase == problem.title for status in HTTPStatus):
        return "about:blank"
    return f"urn:orderflow:problem:{problem.title.lower().replace(' ', '-')}"


def _problem(problem: Problem) -> Response:
    if problem.status >= 500 and request.endpoint != "pages.readyz":
        log.warning("problem", status=problem.status, title=problem.title, detail=problem.detail, path=request.path)
    return answer(problem)


def _http(error: HTTPException) -> Response | HTTPException:
    if error.code is None or error.code < 400:
        return error
    headers = {k: v for k, v in error.get_headers(request.environ) if k.lower() not in _OWN_HEADERS}
    return answer(Problem(error.code, error.name, str(error.description or ""), headers=headers))


def _transient(error: Transient) -> Response:
    unknown = isinstance(error, UnknownOutcome) and request.method != "GET"
    log.warning("request failed for now", outcome_unknown=unknown, error=str(error), path=request.path)
    if unknown:
        title, detail = (
            "Outcome unknown",
            f"the answer of a part was lost: this may have happened; {_how_to_learn()}",
        )
    else:
        title, detail = "Service Unavailable", "a part that this needs does not answer; nothing has happened, try again"
    return answer(Problem(503, title, detail, headers={"Retry-After": "2"}))


def _how_to_learn() -> str:
    view = declared(current_app.view_functions[request.endpoint or ""])
    if view is None or view.idempotent != "key":
        return "repeat it, which has no second effect"
    if HEADER in request.headers:
        return f"repeat it with the same {HEADER} to learn its outcome"
    return f"a repeat may have a second effect, so look first, and send an {HEADER} the next time"


def _unexpected(error: Exception) -> Response:
    log.error("request failed", exc_info=error, method=request.method, path=request.path)
    trace_id = telemetry.trace_id()
    return answer(
        Problem(500, "Internal Server Error", "the fault is on this side and has been logged"),
        {"trace_id": trace_id} if trace_id else None,
    )
