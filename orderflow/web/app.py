"""Combines a service's views with those that every service has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog
from flask import Blueprint, Flask, Response, request
from flask.sessions import NullSession, SessionInterface
from pydantic import BaseModel
from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter

from orderflow.contracts import NUL
from orderflow.service import Service
from orderflow.web import common_routes, dead_letters, metrics, problems, slots
from orderflow.web.auth import Access, guard
from orderflow.web.idempotency import EXTENSION
from orderflow.web.operations import Operation, declared
from orderflow.web.parsing import MAX_BODY, refuse_oversized
from orderflow.web.tracing import trace_requests
from orderflow.web.turns import Turns

log = structlog.get_logger(__name__)

_Application = Callable[[dict[str, Any], Callable[..., Any]], Any]

_SECURITY_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
"""On every answer that doesn't set its own."""


class _NoSessions(SessionInterface):
    """Stops Flask from reading and writing cookies at every request."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Any) -> NullSession:
        return self._none

    def is_null_session(self, obj: object) -> bool:
        return True


class _Id(BaseConverter):
    regex = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class _Sku(BaseConverter):
    regex = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class App(Flask):
    """A Flask application whose views may return pydantic models."""

    session_interface = _NoSessions()

    def make_response(self, rv: Any) -> Response:
        if isinstance(rv, BaseModel):
            return Response(rv.model_dump_json(), 200, content_type="application/json")
        if isinstance(rv, tuple) and isinstance(rv[0], BaseModel):
            headers = dict(rv[2]) if len(rv) == 3 else None
            return Response(rv[0].model_dump_json(), rv[1], headers, content_type="application/json")
        return super().make_response(rv)


def create_app(service: Service, blueprints: Iterable[Blueprint]) -> App:
    """The WSGI application of one service, with the views of `blueprints`. Raises TypeError for a POST that doesn't
    declare why it may be repeated."""
    app = App(service.name, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.url_map.converters |= {"id": _Id, "sku": _Sku}
    app.url_map.merge_slashes = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions[EXTENSION] = Turns(service.settings.web_threads)
    trace_requests(app)
    app.before_request(refuse_oversized)
    app.before_request(_refuse_nul)
    app.before_request(guard(service.settings, lambda endpoint: access[endpoint]))
    problems.install(app)
    own = (dead_letters.blueprint(service), common_routes.blueprint(service), metrics.blueprint(service))
    for blueprint in (*blueprints, *own):
        app.register_blueprint(blueprint)
    _check_repeats(app)
    views = {endpoint: declared(view) or Operation("") for endpoint, view in app.view_functions.items()}
    access: dict[str, Access] = {endpoint: view.access for endpoint, view in views.items()}
    slots.limit(app, service.settings.web_threads, lambda endpoint: views[endpoint].slow)
    verbose = service.settings.log_level == "DEBUG"

    @app.after_request
    def finish(answer: Response) -> Response:
        metrics.count_request(request.method, request.url_rule, answer.status_code)
        if verbose:
            log.debug("answered", method=request.method, path=request.path, status=answer.status_code)
        return answer

    app.wsgi_app = _secured(app.wsgi_app)  # type: ignore[method-assign, assignment]
    return app


def _check_repeats(app: Flask) -> None:
    for rule in app.url_map.iter_rules():
        view = declared(app.view_functions[rule.endpoint])
        if "POST" in (rule.methods or ()) and (view is None or view.idempotent is None):
            raise TypeError(f'POST {rule.rule}: its answer can be lost; declare idempotent="itself" or "key"')


def _secured(application: _Application) -> _Application:
    # At the WSGI level this costs a tenth of what it would in Flask.
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            given = {name for name, _ in headers}
            return start_response(status, headers + [h for h in _SECURITY_HEADERS if h[0] not in given], *error)

        return application(environ, start)

    return answer


def _refuse_nul() -> None:
    # PostgreSQL can't store NUL, so nothing can have such a name.
    if NUL in request.path:
        raise NotFound
