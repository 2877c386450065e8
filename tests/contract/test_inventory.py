"""Stock on a real database: never oversold, all lines or none, released once; whatever runs at the same time."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orderflow import clock
from orderflow.contracts import Item, ReleaseStock, ReserveStock
from orderflow.envelope import Envelope
from orderflow.messaging.guard import Done
from tests.support.inventory_process import THREADS, Shop
from tests.support.provider_process import ask, names

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shop(new_database: Callable[[str | None], str]) -> Iterator[Shop]:
    found = Shop(new_database("inventory"))
    yield found
    found.database.close()


def reserve(**lines: int) -> ReserveStock:
    return ReserveStock(items=tuple(Item(sku=sku.replace("_", "-"), quantity=n) for sku, n in lines.items()))


def test_states(shop: Shop) -> None:
    """Every state with ReserveStock and ReleaseStock; commands are idempotent by order."""
    order, refused, never = (clock.new_id() for _ in range(3))
    assert shop.ask(reserve(RARE_1=30), order) == "StockReserved"
    assert shop.ask(reserve(RARE_1=30), order) == "StockReserved"
    assert shop.stock("RARE-1") == (70, 30)
    assert shop.ask(reserve(RARE_1=1, SOLDOUT_1=1), refused) == "StockRejected"
    assert shop.ask(reserve(RARE_1=1, SOLDOUT_1=1), refused) == "StockRejected"
    assert shop.stock("RARE-1") == (70, 30)
    for order_id in (order, refused, never):
        assert shop.ask(ReleaseStock(), order_id) == "StockReleased"
        assert shop.ask(ReleaseStock(), order_id) == "StockReleased"
        assert shop.ask(reserve(RARE_1=1), order_id) == "StockRejected:undone"
    assert shop.stock("RARE-1") == (100, 0)


def test_a_release_tells_what_it_gave_back(shop: Shop) -> None:
    """Every time, from the row; nothing where nothing was held."""
    order, refused = clock.new_id(), clock.new_id()
    shop.ask(reserve(BOOK_1=2, MUG_1=1), order)
    shop.ask(reserve(SOLDOUT_1=2), refused)
    for _ in range(2):
        shop.ask(ReleaseStock(), order)
    shop.ask(ReleaseStock(), refused)
    _, first, second = shop.outcomes(order)
    assert first == second
    assert {i.sku: i.quantity for i in first.items} == {"BOOK-1": 2, "MUG-1": 1}
    assert shop.outcomes(refused)[-1].items == ()


def test_lines_of_the_same_sku_add_up(shop: Shop) -> None:
    """60 + 60 of 100 is not there."""
    twice = ReserveStock(items=(Item(sku="RARE-1", quantity=60), Item(sku="RARE-1", quantity=60)))
    assert shop.ask(twice, clock.new_id()) == "StockRejected"
    assert shop.stock("RARE-1") == (100, 0)


def test_an_unknown_sku_is_out_of_stock(shop: Shop) -> None:
    """It is a refusal, not an error."""
    assert shop.ask(reserve(BOOK_1=1, NO_SUCH=1), clock.new_id()) == "StockRejected"
    assert shop.stock("BOOK-1") == (100_000, 0)


def test_a_batch_is_decided_in_its_order(shop: Shop) -> None:
    """The first that fits gets it; a release in the same batch of another order is no promise."""
    orders = [clock.new_id() for _ in range(4)]
    shop.handle(*(ask(reserve(RARE_1=n), o) for n, o in zip((60, 60, 40, 1), orders, strict=True)))
    assert [names(shop.outcomes(o))[0] for o in orders] == [
        "StockReserved", "StockRejected", "StockReserved", "StockRejected",
    ]  # fmt: skip
    assert shop.stock("RARE-1") == (0, 100)


@pytest.fixture
def buyers(shop: Shop) -> Iterator[list[subprocess.Popen[str]]]:
    """Four processes that buy what they are told; their start takes longest."""
    command = [sys.executable, "-m", "tests.support.inventory_process", shop.url, "80"]
    pipe = subprocess.PIPE
    made = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) for _ in range(4)]
    yield made
    for process in made:
        process.communicate(timeout=60)


@pytest.mark.row(19)
def test_the_last_hundred_are_sold_once(
    shop: Shop, buyers: list[subprocess.Popen[str]], measured: Callable[..., None]
) -> None:
    """16 threads in each of 4 processes, batches of mixed orders: exactly 100 pieces sold, nobody waits for anybody's
    deadlock. First of orders with one line, then of those with several."""
    assert [buyer.stdout.readline() for buyer in buyers if buyer.stdout] == ["ready\n"] * 4
    sold_at_once(shop, buyers, ["RARE-1"], measured)
    shop.database.query("UPDATE stock SET available = 100, reserved = 0 WHERE sku = 'RARE-1'")
    sold_at_once(shop, buyers, ["RARE-1", "BOOK-1", "MUG-1", "LAMP-1"], measured)


def sold_at_once(
    shop: Shop, buyers: list[subprocess.Popen[str]], skus: list[str], measured: Callable[..., None]
) -> None:
    for buyer in buyers:
        assert buyer.stdin is not None
        buyer.stdin.write(" ".join(skus) + "\n")
        buyer.stdin.flush()
    told = [json.loads(buyer.stdout.readline()) for buyer in buyers if buyer.stdout]
    assert [t["not_done"] for t in told] == [[]] * 4
    sold = [t["reserved"] for t in told]
    measured(sold=sum(sold), fewest_of_a_process=min(sold))
    assert sum(sold) == 100
    first = min(t["ended"] for t in told)
    assert sum(t["began"] < first for t in told) > 1, "processes competed, whoever got the pieces"
    assert shop.stock("RARE-1") == (0, 100)
    assert {shop.stock(sku) for sku in skus[1:]} <= {(99_900, 100)}


@pytest.mark.row(19)
def test_reserving_and_releasing_at_once_conserves_stock(shop: Shop) -> None:
    """Reserve and release of the same orders, mixed in one batch and on twin threads: every piece comes back."""
    orders = [clock.new_id() for _ in range(80)]

    def job(asked: list[Envelope]) -> None:
        while asked:
            verdicts = shop.handle(*asked)
            late = [(m, v) for m, v in zip(asked, verdicts, strict=True) if not isinstance(v, Done)]
            # A twin was first with an order's row: as when the message becomes visible again.
            assert all("unique" in v.reason for _, v in late), late
            asked = [m for m, _ in late]

    asked = [ask(m, o) for o in orders for m in (reserve(BOOK_1=1, RARE_1=1, MUG_1=1), ReleaseStock())]
    random.shuffle(asked)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(job, [asked[i::16] for i in range(16)]))
    assert shop.stock("RARE-1") == (100, 0)
    assert shop.stock("BOOK-1") == (100_000, 0)


@pytest.mark.row(19)
def test_batches_that_take_and_give_back_lock_in_one_order(shop: Shop) -> None:
    """16 threads on the same stock, each batch with orders to reserve and others to release, which are asked for twice:
    no deadlock."""
    held = [clock.new_id() for _ in range(200)]
    for start in range(0, len(held), 10):
        shop.handle(*(ask(reserve(BOOK_1=1, MUG_1=1), o) for o in held[start : start + 10]))
    asked = [ask(ReleaseStock(), o) for o in held * 2]
    asked += [ask(reserve(RARE_1=1, MUG_1=1, BOOK_1=1), clock.new_id()) for _ in held]
    random.shuffle(asked)
    with ThreadPoolExecutor(THREADS) as pool:
        verdicts = [v for part in pool.map(lambda b: shop.finish(*b), [asked[i::60] for i in range(60)]) for v in part]
    assert [v for v in verdicts if not isinstance(v, Done)] == []
    assert not [reason for reason in shop.waited if "deadlock" in reason.lower()]
    assert shop.stock("RARE-1") == (0, 100)
    assert shop.stock("BOOK-1") == shop.stock("MUG-1") == (99_900, 100)
