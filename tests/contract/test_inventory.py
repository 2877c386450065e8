"""Stock on a real database: never oversold, all lines or none, released once; whatever runs at the same time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from orderflow import clock, inbox
from orderflow.contracts import Item, Message, ReleaseStock, ReserveStock
from orderflow.database import Database
from orderflow.envelope import Envelope, decode
from orderflow.outbox import Outbox
from orderflow.processor import Done, Processor, Verdict
from services.inventory import models
from services.inventory.handlers import Inventory
from tests.support.steps import ask, names

THREADS = 16


class Shop:
    """Inventory in one process of many threads."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, size=THREADS)
        self.database.open()
        self.processor = Processor(
            Inventory(), Outbox(self.database, lease=10),
            lambda message_id, error: inbox.count_failure(self.database, message_id, error), parked_at=5,
        )  # fmt: skip

    def handle(self, *envelopes: Envelope) -> list[Verdict]:
        return self.processor.process(envelopes)  # type: ignore[return-value]

    def ask(self, message: Message, order_id: str) -> str:
        """The one outcome, by name."""
        before = len(self.outcomes(order_id))
        [verdict] = self.handle(ask(message, order_id))
        assert isinstance(verdict, Done)
        [outcome] = self.outcomes(order_id)[before:]
        return names([outcome])[0]

    def outcomes(self, order_id: str) -> list[Message]:
        rows = self.database.query("SELECT body FROM outbox WHERE order_id = %s::uuid ORDER BY entry", [order_id])
        return [decode(body).message() for (body,) in rows]

    def stock(self, sku: str) -> tuple[int, int]:
        """(available, reserved)"""
        found = models.stock_of(self.database, sku)
        assert found is not None
        return found[1:]


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


@pytest.mark.parametrize("several_lines", [False, True], ids=["one-line", "several-lines"])
@pytest.mark.row(19)
def test_the_last_hundred_are_sold_once(shop: Shop, several_lines: bool) -> None:
    """16 threads, batches of mixed orders: exactly 100 pieces sold, nobody waits for anybody's deadlock."""
    orders = [clock.new_id() for _ in range(320)]
    skus = ["RARE-1", "BOOK-1", "MUG-1", "LAMP-1"] if several_lines else ["RARE-1"]

    def batch(part: Sequence[str]) -> list[Verdict]:
        asked = []
        for order_id in part:
            lines = random.sample(skus, len(skus))
            asked.append(ask(ReserveStock(items=tuple(Item(sku=s, quantity=1) for s in lines)), order_id))
        return shop.handle(*asked)

    with ThreadPoolExecutor(THREADS) as pool:
        verdicts = [v for part in pool.map(batch, [orders[i::64] for i in range(64)]) for v in part]
    assert all(isinstance(v, Done) for v in verdicts), [v for v in verdicts if not isinstance(v, Done)]
    sold = [o for o in orders if names(shop.outcomes(o)) == ["StockReserved"]]
    assert len(sold) == 100
    for sku in skus:
        assert shop.stock(sku)[1] == 100
    self_made = [shop.stock(sku) for sku in skus if sku != "RARE-1"]
    assert all(available == 99_900 for available, _ in self_made)


@pytest.mark.row(19)
def test_reserving_and_releasing_at_once_conserves_stock(shop: Shop) -> None:
    """Reserve and release of the same orders, mixed in one batch and on twin threads: every piece comes back."""
    orders = [clock.new_id() for _ in range(160)]

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
        list(pool.map(job, [asked[i::32] for i in range(32)]))
    assert shop.stock("RARE-1") == (100, 0)
    assert shop.stock("BOOK-1") == (100_000, 0)


@pytest.mark.row(19)
def test_batches_that_take_and_give_back_lock_in_one_order(shop: Shop) -> None:
    """16 threads on the same stock, each batch with orders to reserve and others to release, which are asked for twice:
    no deadlock."""
    held = [clock.new_id() for _ in range(400)]
    for start in range(0, len(held), 10):
        shop.handle(*(ask(reserve(BOOK_1=1, MUG_1=1), o) for o in held[start : start + 10]))
    asked = [ask(ReleaseStock(), o) for o in held * 2]
    asked += [ask(reserve(RARE_1=1, MUG_1=1, BOOK_1=1), clock.new_id()) for _ in held]
    random.shuffle(asked)
    with ThreadPoolExecutor(THREADS) as pool:
        verdicts = [
            v for part in pool.map(lambda b: shop.handle(*b), [asked[i::120] for i in range(120)]) for v in part
        ]
    assert [v for v in verdicts if not isinstance(v, Done)] == []
    assert shop.stock("RARE-1") == (0, 100)
    assert shop.stock("BOOK-1") == shop.stock("MUG-1") == (99_900, 100)
