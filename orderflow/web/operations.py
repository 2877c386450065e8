"""What a view declares about itself, for access control and for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from flask import Response
from pydantic import BaseModel
from werkzeug.wrappers import Response as BaseResponse

from orderflow.web.auth import Access
from orderflow.web.parsing import RequestModel

Content = BaseModel | Mapping[str, Any] | Response | str
Answer = Content | tuple[Content, int] | tuple[Content, int, Mapping[str, str]]
"""What a view may return."""

Idempotent = Literal["itself", "key"]
"""Why a POST may be repeated after its answer was lost: it has no second effect by itself, or its `Idempotency-Key`
prevents one (`orderflow.web.idempotency`)."""

_ATTRIBUTE: Final = "__operation__"


@dataclass(frozen=True, slots=True)
class Operation:
    """The declaration of one view. `answers` and `problems` are by status."""

    summary: str
    body: type[RequestModel] | None = None
    query: type[RequestModel] | None = None
    answers: Mapping[int, type[BaseModel] | None] = field(default_factory=lambda: {200: None})
    problems: tuple[int, ...] = ()
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    access: Access = "customer"
    body_optional: bool = False
    idempotent: Idempotent | None = None
    hidden: bool = False
    slow: bool = False


def operation(
    summary: str,
    *,
    body: type[RequestModel] | None = None,
    query: type[RequestModel] | None = None,
    answers: Mapping[int, type[BaseModel] | None] | None = None,
    problems: tuple[int, ...] = (),
    answer_headers: Mapping[str, str] | None = None,
    access: Access = "customer",
    body_optional: bool = False,
    idempotent: Idempotent | None = None,
    hidden: bool = False,
    slow: bool = False,
) -> Callable[[Callable[..., Answer | BaseResponse]], Callable[..., Any]]:
    """Declares a view; place it below the route. 400, 413, 415 (body), 422 (body or query), 401, 403 and 503 are
    documented automatically; `problems` adds others such as 404 or 409. Each POST needs `idempotent`. `hidden` omits
    the view from the document. `slow`: it may wait long for something other than its own database
    (`orderflow.web.slots`).

    Raises TypeError if a request model would accept unknown fields.
    """
    for model in (body, query):
        if model is not None:
            _check_strict(model)
    declared = Operation(
        summary,
        body=body,
        query=query,
        answers=answers or {200: None},
        problems=problems,
        answer_headers=answer_headers or {},
        access=access,
        body_optional=body_optional,
        idempotent=idempotent,
        hidden=hidden,
        slow=slow,
    )

    def mark(view: Callable[..., Answer | BaseResponse]) -> Callable[..., Any]:
        setattr(view, _ATTRIBUTE, declared)
        return view

    return mark


def declared(view: Callable[..., Any]) -> Operation | None:
    """The declaration of `view`, if there is one."""
    return getattr(view, _ATTRIBUTE, None)


def _check_strict(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        if part.get("type") == "object" and part.get("additionalProperties") is not False:
            raise TypeError(
                f"{name}, part of the request {model.__name__}, takes unknown fields; derive it from RequestModel"
            )
