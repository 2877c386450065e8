"""The rules of stock: an order gets all of its lines or none, first come, first served, and nothing is oversold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


def total(lines: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The pieces that an order needs of each SKU. Several lines may name the same SKU."""
    pieces: Counter[str] = Counter()
    for sku, quantity in lines:
        pieces[sku] += quantity
    return dict(pieces)


def short_of(needed: Mapping[str, int], available: Mapping[str, int]) -> list[str]:
    """The SKUs, sorted, of which there is not enough stock. An unknown SKU has none."""
    return sorted(sku for sku, quantity in needed.items() if available.get(sku, 0) < quantity)


def decide(orders: Sequence[Mapping[str, int]], stock: Mapping[str, int]) -> tuple[list[list[str]], dict[str, int]]:
    """Decides several orders, one after another, on the same stock.

    Returns two things: for each order, the SKUs that it is short of (empty if it gets all of its pieces); and the
    total of pieces taken, by SKU.
    """
    left = dict(stock)
    taken: Counter[str] = Counter()
    verdicts = []
    for needed in orders:
        short = short_of(needed, left)
        verdicts.append(short)
        if not short:
            for sku, quantity in needed.items():
                left[sku] -= quantity
                taken[sku] += quantity
    return verdicts, dict(taken)
