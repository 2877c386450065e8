"""Who may do what, at the services' own routes, whichever there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from orderflow import clock
from tests.support.world import BUILD, World, world_on
from tests.unit.web.test_web_auth import CROSS, KEYS, bearer

CUSTOMERS = {("POST", "/orders"), ("POST", "/orders/<id:order_id>/cancel")}
"""What changes something and needs no operator."""

READ_BY_OPERATORS = {("GET", "/dlq")}

OPERATORS = {
    "order": {("POST", "/orders/<id:order_id>/retry"), ("POST", "/orders/retry")},
    "inventory": {("POST", "/stock/<sku:sku>/restock")},
    "payment": {("PUT", "/simulator/faults")},
    "shipping": {("PUT", "/simulator/faults")},
    "orchestrator": set[tuple[str, str]](),
}
"""Beside the dead letters, which each service has."""


@pytest.fixture(scope="module")
def world(new_database: Callable[[str | None], str]) -> Iterator[World]:
    with world_on(new_database, **KEYS) as made:
        yield made


def routes(world: World, service: str) -> set[tuple[str, str]]:
    rules = world.http(service).application.url_map.iter_rules()
    return {(method, rule.rule) for rule in rules for method in rule.methods - {"HEAD", "OPTIONS"}}


@pytest.mark.parametrize("service", list(BUILD))
def test_what_changes_something_is_for_operators(world: World, service: str) -> None:
    """But for placing and cancelling orders: a customer's key is 403, none is 401, a post from elsewhere is refused."""
    found = routes(world, service)
    guarded = {(method, rule) for method, rule in found if method != "GET"} - CUSTOMERS
    assert guarded == OPERATORS[service] | {("POST", "/dlq/redrive"), ("POST", "/dlq/discard")}
    client = world.http(service)
    for method, rule in guarded | READ_BY_OPERATORS:
        path = rule.replace("<id:order_id>", clock.new_id()).replace("<sku:sku>", "BOOK-1")
        assert client.open(path, method=method, headers=bearer("customer-1")).status_code == 403, (method, path)
        assert client.open(path, method=method).status_code == 401, (method, path)
        if method != "GET":
            for headers in CROSS:
                answer = client.open(path, method=method, headers=bearer("operator-1") | headers)
                assert answer.status_code == 403, (method, path, headers)


def test_customers_place_and_cancel(world: World) -> None:
    client = world.http("order")
    assert client.post("/orders", headers=bearer("customer-1"), json={}).status_code == 422
    assert client.post(f"/orders/{clock.new_id()}/cancel", headers=bearer("customer-1")).status_code == 404
    assert client.post("/orders", json={}).status_code == 401
