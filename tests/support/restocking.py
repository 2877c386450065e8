"""A POST that has an effect which can be counted: a restock."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient

from tests.support.world import World

RESTOCK = "/stock/LAMP-1/restock"


def restock(http: FlaskClient, key: str, quantity: int = 5, path: str = RESTOCK, **headers: str) -> Any:
    return http.post(path, json={"quantity": quantity}, headers={"Idempotency-Key": key} | headers)


def pieces(world: World, sku: str = "LAMP-1") -> int:
    return int(world.execute("inventory", "SELECT available FROM stock WHERE sku = %s", [sku])[0][0])
