"""The services over HTTP: their calls, their keys, and errors that say what to do."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from orderflow import clock
from runtime.problems import RuntimeProblem

Json = dict[str, Any]

TERMINAL: Final = ("CONFIRMED", "CANCELLED", "NEEDS_ATTENTION")
"""The statuses in which an order stays until somebody acts."""

_TIMEOUT: Final = httpx.Timeout(15.0, connect=2.0)
_KEYS: Final = "ORDERFLOW_API_KEYS or ORDERFLOW_OPERATOR_KEYS"


_UNKNOWN: Final = "Outcome unknown"
"""The title of a service's answer (503) if it may have done what was asked."""

_REPEATED_AFTER: Final = 2.0
"""Seconds after a lost answer until the request is repeated."""


def verifying(*addresses: str | None) -> ssl.SSLContext:
    """What verifies the certificates of `addresses`. Without HTTPS among them the authorities' file isn't read, which
    takes 60 ms. Raises RuntimeProblem if it can't be read: somebody is installing the packages again."""
    if not any(address and address.lower().startswith("https:") for address in addresses):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
    try:
        return httpx.create_ssl_context(trust_env=False)
    except OSError as error:
        raise RuntimeProblem(
            f"The file of certificate authorities can't be read: {error.strerror or error}.",
            "Install the packages again: rm -rf .venv && make up",
        ) from error


class ApiProblem(RuntimeProblem):
    """A service refused (`status` 4xx or 5xx), or does not answer (`status` 0). `lost`: it may still have done what was
    asked."""

    def __init__(self, status: int, what: str, way_out: str, *, lost: bool = False) -> None:
        super().__init__(what, way_out)
        self.status = status
        self.lost = lost


class Api:
    """Calls the services. Every method raises ApiProblem.

    `addresses`: service → base URL. `jaeger`: where its API answers; `jaeger_pages`: where people open its pages, if
    that is elsewhere. `running`: whether there is a system at all, so that an error can give the right advice.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        *,
        api_key: str = "",
        operator_key: str = "",
        jaeger: str | None = None,
        jaeger_pages: str | None = None,
        running: Callable[[], bool] = lambda: True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.addresses = dict(addresses)
        self.jaeger = jaeger
        self._pages = jaeger_pages or jaeger
        self._customer = api_key or operator_key
        self._operator = operator_key or api_key
        self._running = running
        # Ignore the environment's proxies: the services are on this machine or in its network.
        self._http = httpx.Client(
            timeout=_TIMEOUT, trust_env=False, transport=transport, verify=verifying(*addresses.values(), jaeger)
        )

    def get(self, service: str, path: str, *, operator: bool = False, **query: object) -> Json:
        """The JSON at a path; values of `query` that are None are left out."""
        wanted = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in query.items() if v is not None}
        found: Json = self._ask("GET", service, path, operator, params=wanted).json()
        return found

    def find(self, service: str, path: str) -> Json | None:
        """Like `get`, with None for 404."""
        try:
            return self.get(service, path)
        except ApiProblem as problem:
            if problem.status == 404:
                return None
            raise

    def post(self, service: str, path: str, body: Json, *, key: str | None = None, operator: bool = False) -> Json:
        """Sends JSON and returns the JSON of the answer. The request carries an idempotency key, a new one if none is
        given, and is repeated once with the same key if the answer was lost."""
        headers = {"Idempotency-Key": key or clock.new_id()}
        try:
            answer = self._ask("POST", service, path, operator, json=body, headers=headers)
        except ApiProblem as problem:
            if not problem.lost:
                raise
            time.sleep(_REPEATED_AFTER)
            answer = self._ask("POST", service, path, operator, json=body, headers=headers)
        found: Json = answer.json()
        return found

    def put(self, service: str, path: str, body: Json) -> Json:
        """Like `post`, as an operator."""
        found: Json = self._ask("PUT", service, path, operator=True, json=body).json()
        return found

    def text(self, service: str, path: str) -> str:
        """The answer as text, such as that of `/metrics`."""
        return self._ask("GET", service, path, operator=False).text

    def clock_ahead(self, service: str) -> float:
        """Seconds that a service's clock is ahead of this machine's, by HTTP's Date header: precise to a second."""
        began = time.time()
        answer = self._ask("GET", service, "/healthz", operator=False)
        middle = (began + time.time()) / 2
        return parsedate_to_datetime(answer.headers["Date"]).timestamp() + 0.5 - middle

    def trace(self, trace_id: str) -> Json | None:
        """A trace from Jaeger, in Jaeger's own form; None if there is no Jaeger, or it doesn't have the trace."""
        if not self.jaeger:
            return None
        try:
            answer = self._http.get(f"{self.jaeger}/api/traces/{trace_id}", timeout=5.0)
            data = answer.json()["data"] if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError, KeyError):
            return None
        return data[0] if data else None

    def trace_url(self, order: Json) -> str | None:
        """The page of an order's trace; None if there is no Jaeger, or the trace was not recorded."""
        if not self._pages or not order.get("traced"):
            return None
        return f"{self._pages}/trace/{order['trace_id']}"

    def _ask(self, method: str, service: str, path: str, operator: bool, **more: Any) -> httpx.Response:
        url = self.addresses[service] + path
        key = self._operator if operator else self._customer
        headers = more.pop("headers", {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        try:
            answer = self._http.request(method, url, headers=headers, **more)
        except httpx.HTTPError as error:
            raise self._away(service, error) from error
        if answer.is_success:
            return answer
        raise _refused(service, answer)

    def _away(self, service: str, error: httpx.HTTPError) -> ApiProblem:
        if not self._running():
            return ApiProblem(0, "orderflow isn't running.", "Start it: make up")
        said = "takes too long to answer" if isinstance(error, httpx.TimeoutException) else "does not answer"
        return ApiProblem(
            0,
            f"The {service} service {said} at {self.addresses[service]}.",
            f"Check its state: make status, then: orderflow logs {service}",
            lost=not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout),
        )


def _refused(service: str, answer: httpx.Response) -> ApiProblem:
    """A problem+json answer, field by field; anything else by its status."""
    try:
        problem = answer.json()
        title, detail = str(problem["title"]), str(problem.get("detail") or "")
        fields = [(str(e["pointer"]), str(e["detail"])) for e in problem.get("errors") or ()]
    except (ValueError, KeyError, TypeError):
        title, detail, fields = answer.reason_phrase or "no reason given", "", []
    width = max((len(pointer) for pointer, _ in fields), default=0)
    lines = [f"{answer.status_code} {title}" + (f": {detail}" if detail else "")]
    lines += [f"    {pointer:<{width}}  {text}" for pointer, text in fields]
    lost = title == _UNKNOWN
    return ApiProblem(answer.status_code, "\n".join(lines), _way_out(service, answer.status_code, lost), lost=lost)


def _way_out(service: str, status: int, lost: bool) -> str:
    match status:
        case 503 if lost:
            return "It was repeated once. Check the state before you do it again: make status, orderflow order list"
        case 401:
            return f"Set {_KEYS} to a key that the system was started with."
        case 403:
            return "Only operators may do this: set ORDERFLOW_OPERATOR_KEYS to a key that the system was started with."
        case 404:
            return "List the orders: orderflow order list"
        case 409:
            return "Check its state: orderflow order show <id>"
        case 503:
            return "Nothing was changed; try again in a few seconds. Check the parts: make status"
        case _ if status >= 500:
            return f"Look for the cause: orderflow logs {service}"
        case _:
            return "Correct it and try again; --help shows what can be given."
