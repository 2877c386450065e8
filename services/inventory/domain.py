"""The rules of stock: all lines or none, decided in the order of arrival, never oversold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


def total(lines: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The pieces an order needs of each SKU; several lines may name the same one."""
    pieces: Counter[str] = Counter()
    for sku, quantity in lines:
        pieces[sku] += quantity
    return dict(pieces)


def short_of(needed: Mapping[str, int], available: Mapping[str, int]) -> list[str]:
    """The SKUs, sorted, of which there is not enough (an unknown one has none)."""
    return sorted(sku for sku, quantity in needed.items() if available.get(sku, 0) < quantity)


def decide(orders: Sequence[Mapping[str, int]], stock: Mapping[str, int]) -> tuple[list[list[str]], dict[str, int]]:
    """Decides orders one after another on the same stock.

    Returns for each the SKUs it is short of (empty: it gets all its pieces), and the pieces taken in all by SKU.
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
