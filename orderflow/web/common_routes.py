"""Routes of every service: whether it is alive, whether it is ready, and the documentation of its API."""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

import flask_swagger_ui
from flask import Blueprint, Response, current_app, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from orderflow.errors import FieldError, Problem
from orderflow.looks import Looks
from orderflow.service import Service
from orderflow.web.openapi import document
from orderflow.web.operations import Answer, operation

_ASSETS: Final = Path(flask_swagger_ui.__file__).parent / "dist"
_TYPES: Final = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
_VERSION: Final = version("flask-swagger-ui")

_DOCS_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI sets style attributes; its scripts are served from here only."""

_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>orderflow API</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
_PATIENCE: Final = 2.0
"""Seconds that a probe waits: a broker that hangs must not block the threads of all probes."""

_START: Final = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#ui", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""


@cache
def _read(name: str) -> bytes:
    # Cached: these are by far the longest answers, and slow clients then share the same bytes.
    return (_ASSETS / name).read_bytes()


def blueprint(service: Service) -> Blueprint:
    """`/healthz`, `/readyz`, `/openapi.json` and `/docs`."""
    pages = Blueprint("pages", __name__)
    looks = Looks("readiness", service.not_ready, _PATIENCE)

    @pages.get("/healthz")
    @operation("Whether the process lives", access="open")
    def healthz() -> Answer:
        return {"status": "ok", "service": service.name}

    @pages.get("/readyz")
    @operation("Whether database, broker and consumer work", access="open", problems=(503,))
    def readyz() -> Answer:
        missing = looks.ask()
        if missing is None:
            missing = {"broker": f"no answer within {_PATIENCE:g} s"}
        if missing:
            raise Problem(
                503,
                "Not ready",
                "; ".join(f"{part}: {what}" for part, what in missing.items()),
                errors=tuple(FieldError(f"/{part}", what) for part, what in missing.items()),
                headers={"Retry-After": "2"},
            )
        return {"status": "ready", "service": service.name}

    @cache
    def described() -> str:
        return json.dumps(document(current_app, service.name, with_keys=service.settings.orderflow_auth == "key"))

    @pages.get("/openapi.json")
    @operation("This document", access="open", hidden=True)
    def openapi() -> Answer:
        return Response(described(), content_type="application/json")

    @pages.get("/")
    @operation("The way to the documentation", access="open", hidden=True)
    def root() -> BaseResponse:
        return redirect("/docs")

    @pages.get("/docs")
    @operation("The API, to read and to try", access="open", hidden=True)
    def docs() -> Answer:
        return Response(
            _PAGE, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": _DOCS_POLICY}
        )

    @pages.get("/docs/<path:name>")
    @operation("What the page of the API needs", access="open", hidden=True)
    def asset(name: str) -> BaseResponse:
        if name == "start.js":
            return Response(_START, content_type="text/javascript")
        if name not in _TYPES:
            raise Problem(404, "Not Found", "there is no such file")
        answer = Response(_read(name), content_type=_TYPES[name], headers={"Cache-Control": "public, max-age=86400"})
        answer.set_etag(_VERSION)
        return answer.make_conditional(request)

    return pages
