"""The oracle of the fault matrix: reads every service's database and the providers' ledger, and reports violations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import psycopg

from services.inventory.models import START

RESTING = {"CONFIRMED", "CANCELLED"}


def rows(url: str, sql: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql).fetchall()


def complaints(
    urls: Mapping[str, str],
    *,
    acknowledged: Collection[str] = (),
    attention: Collection[str] = (),
    drained: bool = True,
) -> list[str]:
    """What is wrong in a quiet system. `urls`: the databases by service, and `providers`; `acknowledged`: orders for
    which a caller got a 202; `attention`: orders that may need an operator."""
    wrong: list[str] = []
    orders = {r[0]: r[1:] for r in rows(urls["order"], "SELECT id::text, status, amount, snapshot FROM orders")}
    wrong += [f"order {i} was acknowledged and is not there" for i in acknowledged if i not in orders]
    for order_id, (status, _, _) in orders.items():
        if status not in RESTING and not (status == "NEEDS_ATTENTION" and order_id in attention):
            wrong.append(f"order {order_id} is {status}")
    wrong += _money(urls, orders) + _shipments(urls, orders) + _stock(urls, orders)
    for table in ("payments", "shipments"):
        url = urls["payment" if table == "payments" else "shipping"]
        open_rows = rows(url, f"SELECT order_id::text, state FROM {table} WHERE state IN ('intended', 'undoing')")
        wrong += [f"{table}: {order_id} is still {state}" for order_id, state in open_rows if order_id not in attention]
    if drained:
        for service in urls:
            if service != "providers":
                left = rows(urls[service], "SELECT count(*) FROM outbox")[0][0]
                wrong += [f"{service}'s outbox still holds {left}"] if left else []
    return wrong


def check(urls: Mapping[str, str], **expected: Any) -> None:
    """Fails with all complaints."""
    found = complaints(urls, **expected)
    assert not found, "\n".join(found[:20])


def _money(urls: Mapping[str, str], orders: Mapping[str, Any]) -> list[str]:
    net: Counter[str] = Counter()
    charges: Counter[str] = Counter()
    for order_id, kind, amount in rows(urls["providers"], "SELECT order_id::text, kind, amount FROM ledger"):
        if kind == "charge":
            net[order_id] += amount
            charges[order_id] += 1
        elif kind == "refund":
            net[order_id] -= amount
    wrong = [f"order {i} was charged {n} times" for i, n in charges.items() if n > 1]
    for order_id, (status, price, _) in orders.items():
        due = price if status == "CONFIRMED" else 0
        if status in RESTING and net[order_id] != due:
            wrong.append(f"order {order_id} is {status}, and {net[order_id]} of {due} were charged")
    return wrong


def _shipments(urls: Mapping[str, str], orders: Mapping[str, Any]) -> list[str]:
    live: Counter[str] = Counter()
    for order_id, kind in rows(urls["providers"], "SELECT order_id::text, kind FROM ledger"):
        live[order_id] += {"shipment": 1, "cancellation": -1}.get(kind, 0)
    return [
        f"order {order_id} is {status} with {live[order_id]} live shipments"
        for order_id, (status, _, _) in orders.items()
        if status in RESTING and live[order_id] != (status == "CONFIRMED")
    ]


def _stock(urls: Mapping[str, str], orders: Mapping[str, Any]) -> list[str]:
    import json

    sold: dict[str, int] = defaultdict(int)
    for status, _, snapshot in orders.values():
        if status == "CONFIRMED":
            for item in json.loads(snapshot)["items"]:
                sold[item["sku"]] += item["quantity"]
    wrong = []
    for sku, available, reserved in rows(urls["inventory"], "SELECT sku, available, reserved FROM stock"):
        if sku in START and available + reserved != START[sku]:
            wrong.append(f"{sku}: {available} available + {reserved} reserved are not {START[sku]}")
        if all(status in RESTING for status, _, _ in orders.values()) and reserved != sold[sku]:
            wrong.append(f"{sku}: {reserved} reserved, {sold[sku]} sold")
    return wrong
