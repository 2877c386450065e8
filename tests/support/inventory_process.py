"""Inventory on a real database, in one process with many threads; run as a program, it buys as much as it can."""

from __future__ import annotations

import json
import logging
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from orderflow import clock
from orderflow.contracts import Item, Message, ReserveStock
from orderflow.database import Database
from orderflow.envelope import Envelope, decode
from orderflow.messaging import inbox
from orderflow.messaging.guard import Done, Guard, Retry, Verdict
from orderflow.messaging.outbox import Outbox
from orderflow.messaging.processor import Processor
from services.inventory import models
from services.inventory.handlers import Inventory
from tests.support.provider_process import ask, names

THREADS = 16


class Shop:
    """Inventory in one process with many threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.waited: list[str] = []
        self.database = Database(url, size=THREADS)
        self.database.open()
        self.processor = Processor(
            Inventory(),
            Outbox(self.database, lease=10),
            Guard(
                "test",
                lambda message_id, error: inbox.count_failure(self.database, message_id, error),
                parked_at=5,
            ),
        )  # fmt: skip

    def handle(self, *envelopes: Envelope) -> list[Verdict]:
        return self.processor.process(envelopes)  # type: ignore[return-value]

    def finish(self, *envelopes: Envelope) -> list[Verdict]:
        """Handles all messages; one that must wait is handled again, alone. `waited` records the reasons."""
        verdicts = self.handle(*envelopes)
        for i, envelope in enumerate(envelopes):
            for _ in range(100):
                if isinstance(verdict := verdicts[i], Retry):
                    self.waited.append(verdict.reason)
                    [verdicts[i]] = self.handle(envelope)
        return verdicts

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


def buy(shop: Shop, orders: Sequence[str], skus: Sequence[str]) -> list[Verdict]:
    """Reserves one piece of each SKU for each order, in batches of mixed lines, on all threads."""

    def batch(part: Sequence[str]) -> list[Verdict]:
        lines = {order_id: random.sample(skus, len(skus)) for order_id in part}
        items = {i: tuple(Item(sku=sku, quantity=1) for sku in lines[i]) for i in part}
        asked = [ask(ReserveStock(items=items[order_id]), order_id) for order_id in part]
        return shop.finish(*asked)

    with ThreadPoolExecutor(THREADS) as pool:
        return [v for part in pool.map(batch, [orders[i::THREADS] for i in range(THREADS)]) for v in part]


def main(url: str, number: str) -> None:
    """Prints `ready`. For each line of SKUs it buys, and prints as JSON how many orders got their pieces, and when."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    shop = Shop(url)
    print("ready", flush=True)
    for line in sys.stdin:
        orders = [clock.new_id() for _ in range(int(number))]
        began = time.monotonic()
        verdicts = buy(shop, orders, line.split())
        ended = time.monotonic()
        reserved = sum(names(shop.outcomes(order_id)) == ["StockReserved"] for order_id in orders)
        not_done = [str(v) for v in verdicts if not isinstance(v, Done)]
        print(json.dumps({"reserved": reserved, "not_done": not_done, "began": began, "ended": ended}), flush=True)
    shop.database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
