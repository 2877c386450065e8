"""Checks one finished order against the providers' ledgers and the stock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

from client.api import Api, ApiProblem, Json
from client.timeline import OrderTimeline

_TAKEN_BACK: Final = ("released", "undone")
_PAGES: Final = {
    "stock": ("inventory", "reservations"), "payment": ("payment", "payments"), "shipment": ("shipping", "shipments"),
}  # fmt: skip

Stock = Mapping[str, tuple[int, int]]
"""SKU → (available, reserved)."""


def stock(api: Api) -> Stock:
    """The current stock of all SKUs. Raises ApiProblem."""
    return {s["sku"]: (s["available"], s["reserved"]) for s in api.get("inventory", "/stock")["items"]}


def broken(
    api: Api,
    timeline: OrderTimeline,
    items: Mapping[str, int],
    expected: str,
    owed: Collection[str],
    stocks: tuple[Stock, Stock] | None,
) -> list[str]:
    """The promises that were broken, in words; empty if all were kept. `items`: SKU → pieces ordered; `owed`: the steps
    to be compensated; `stocks`: before and after, None if other orders were in flight. Raises ApiProblem."""
    order = timeline.order
    status = str(order["status"])
    found = [] if status == expected else [f"the order is {status}, not {expected}"]
    confirmed = status == "CONFIRMED"
    paid, shipped = _ledger(api, "payment", timeline.id), _ledger(api, "shipping", timeline.id)
    if paid is not None:
        found += _balanced(Counter(i["kind"] for i in paid), "charge", "refund", confirmed)
        found += [
            f"{entry['kind']} of {entry['amount']}, not of {order['total']}"
            for entry in paid
            if entry["amount"] != order["total"]
        ]
    if shipped is not None:
        found += _balanced(Counter(i["kind"] for i in shipped), "shipment", "cancellation", confirmed)
    found += _reserved(api.find("inventory", f"/reservations/{timeline.id}"), items, confirmed)
    if stocks is not None:
        found += _moved(*stocks, items if confirmed else {})
    back = undone(api, timeline.id)
    if set(back) != set(owed):
        found.append(f"undone: {', '.join(back) or 'nothing'}; owed: {', '.join(owed) or 'nothing'}")
    return found


def undone(api: Api, order_id: str) -> tuple[str, ...]:
    """The steps that were compensated, by their services' records, in the order of the saga. Raises ApiProblem."""
    found = {step: api.find(service, f"/{page}/{order_id}") for step, (service, page) in _PAGES.items()}
    return tuple(step for step, row in found.items() if row and row["state"] in _TAKEN_BACK)


def _ledger(api: Api, service: str, order_id: str) -> list[Json] | None:
    """The provider's entries for an order; None if the provider is a real one."""
    try:
        entries: list[Json] = api.get(service, "/simulator/ledger", order_id=order_id)["items"]
    except ApiProblem as problem:
        if problem.status == 404:
            return None
        raise
    return entries


def _balanced(kinds: Counter[str], does: str, undoes: str, confirmed: bool) -> list[str]:
    """A confirmed order: done once and kept. Any other order: never done, or done once and compensated."""
    done, back = kinds[does], kinds[undoes]
    right = (done, back) == (1, 0) if confirmed else done == back <= 1
    return [] if right else [f"{done} {does}(s) and {back} {undoes}(s) in the provider's ledger"]


def _reserved(reservation: Json | None, items: Mapping[str, int], confirmed: bool) -> list[str]:
    state = reservation["state"] if reservation else "none"
    if not confirmed:
        return [f"stock is still {state}"] if state == "reserved" else []
    held = {i["sku"]: i["quantity"] for i in reservation["items"]} if reservation else {}
    return [] if state == "reserved" and held == dict(items) else [f"stock is {state}: {held}, not {dict(items)}"]


def _moved(before: Stock, after: Stock, items: Mapping[str, int]) -> list[str]:
    """The stock has changed by exactly what a confirmed order took."""
    expected = {
        sku: (available - items.get(sku, 0), reserved + items.get(sku, 0))
        for sku, (available, reserved) in before.items()
    }
    return [
        f"stock of {sku}: {after.get(sku)} (available, reserved), not {right}"
        for sku, right in expected.items()
        if after.get(sku) != right
    ]
