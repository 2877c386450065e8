"""Finds the services that the commands talk to, and the order that they are about."""

from __future__ import annotations

import uuid
from typing import Final

import httpx

from client.api import Api, verifying
from orderflow.routing import SERVICES
from runtime import RuntimeProblem, runtime
from runtime.plan import user_settings

_LAST: Final = "last"


def connect() -> Api:
    """The services of the running system, or of the system that the settings describe if none is running.

    `ORDER_URL`, `INVENTORY_URL`, … take precedence over the running system's addresses.
    """
    system, settings = runtime(), user_settings()
    plan = system.running_plan()
    pages = (settings.get("JAEGER_URL") or "").rstrip("/") or None
    return Api(
        {name: (settings.get(f"{name.upper()}_URL") or plan.url(name)).rstrip("/") for name in SERVICES},
        api_key=_first(settings.get("ORDERFLOW_API_KEYS")),
        operator_key=_first(settings.get("ORDERFLOW_OPERATOR_KEYS")),
        jaeger=_jaeger(plan.url("jaeger"), pages),
        jaeger_pages=pages,
        running=lambda: system.running,
    )


def _jaeger(*addresses: str | None) -> str | None:
    """The first of these addresses at which Jaeger's API answers."""
    for address in filter(None, addresses):
        try:
            found = f"{address.rstrip('/')}/api/services"
            answer = httpx.get(found, timeout=1.0, trust_env=False, verify=verifying(found))
        except httpx.HTTPError:
            continue
        if answer.status_code == 200:
            return address.rstrip("/")
    return None


def _first(keys: str | None) -> str:
    return next((key.strip() for key in (keys or "").split(",") if key.strip()), "")


def resolve(api: Api, order_id: str) -> str:
    """The order's id: the given one, or the newest order's for `last`."""
    if order_id != _LAST:
        try:
            return str(uuid.UUID(order_id))
        except ValueError:
            way_out = "orderflow order list shows them; `last` is the newest."
            raise RuntimeProblem(f"{order_id!r} is not an order's id.", way_out) from None
    newest = api.get("order", "/orders", limit=1)["items"]
    if not newest:
        raise RuntimeProblem("There are no orders yet.", "Place one: orderflow order place")
    return str(newest[0]["id"])
