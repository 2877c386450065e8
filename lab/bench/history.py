"""Fills an order database with the rows of years, by generate_series: so many that it matters which rows are read.

Rows have real sizes and times, but no counterparts in other services: use it to measure one database.

    python -m lab.bench.history DATABASE_URL --stored 20000000 --open 600000
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg

_CHUNK: Final = 500_000
"""Rows per statement."""

# A UUIDv7 of a time with a random part derived from n; the same n gives the same id.
_ID: Final = """(lpad(to_hex((extract(epoch FROM {at}) * 1000)::bigint), 12, '0')
    || '7' || substr(md5('{salt}' || n), 1, 3) || '8' || substr(md5('{salt}' || n), 4, 15))::uuid"""
_ORDERS: Final = f"""
INSERT INTO orders (id, customer_id, workflow, event_bus, snapshot, amount, currency, placed_id, cancel_id, facts,
    status, open, answered, progress_at, next_at, created_at, updated_at)
SELECT {_ID.format(at="at", salt="order")}, 'c-' || mod(n, 100000),
    (ARRAY['choreography', 'orchestration', 'step-functions', 'hybrid'])[mod(n, 4) + 1], 'sns',
    repeat('x', 250), 1999, 'EUR',
    {_ID.format(at="at", salt="placed")}, {_ID.format(at="at", salt="cancel")},
    CASE WHEN is_open THEN '{{StockReserved}}'
         ELSE '{{StockReserved,PaymentCharged,ShipmentScheduled,OrderConfirmed}}' END::text[],
    CASE WHEN is_open THEN 'STOCK_RESERVED' WHEN mod(n, 100) = 0 THEN 'CANCELLED' ELSE 'CONFIRMED' END,
    is_open, true, at, CASE WHEN is_open THEN now() + interval '1 day' ELSE at END, at, at
FROM (
    SELECT n, n > %(stored)s - %(open)s AS is_open,
        now() - interval '1 hour' * CASE WHEN n > %(stored)s - %(open)s THEN 2.0 * (%(stored)s - n) / %(open)s
                                         ELSE 2 + 2400.0 * (%(stored)s - n) / %(stored)s END AS at
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
) AS spread
"""  # noqa: S608
_LOG: Final = f"""
INSERT INTO order_log (order_id, at, service, kind, type, message_id, note)
SELECT {_ID.format(at="at", salt="order")}, at, 'order', 'event', 'StockReserved', {_ID.format(at="at", salt="log")}, ''
FROM (
    SELECT n, now() - interval '1 hour' * (2400.0 * (%(stored)s - n) / %(stored)s) AS at
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
) AS spread
"""  # noqa: S608
_INBOX: Final = f"""
INSERT INTO inbox (consumer, message_id, outcome, at)
SELECT 'order', {_ID.format(at="at", salt="message")}, 'StockReserved', at
FROM (
    SELECT n, now() - interval '1 hour' * (400.0 * (%(stored)s - n) / %(stored)s) AS at
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
) AS spread
"""  # noqa: S608


def fill(
    url: str, *, orders: int, still_open: int, log: int, inbox: int, report: Callable[[str], None] = lambda text: None
) -> None:
    """Inserts orders of 100 days, of which the `still_open` newest are of the last two hours, lines of their log, and
    messages of 17 days. The database may have the schema of this release or of the one before partitions."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement, stored in ((_ORDERS, orders), (_LOG, log), (_INBOX, inbox)):
            _insert(connection, statement, {"stored": stored, "open": still_open}, report)
        connection.execute("VACUUM ANALYZE orders, order_log, inbox")


def _insert(
    connection: psycopg.Connection[Any], statement: str, sizes: dict[str, int], report: Callable[[str], None]
) -> None:
    begun = time.monotonic()
    for first in range(1, sizes["stored"] + 1, _CHUNK):
        last = min(first + _CHUNK - 1, sizes["stored"])
        connection.execute(statement.encode(), sizes | {"first": first, "last": last})
        rate = last / (time.monotonic() - begun)
        report(f"{statement.split()[2]}: {last:,} of {sizes['stored']:,} ({rate:,.0f} rows/s)")


def main() -> None:
    """Fills the order database at the URL on the command line."""
    parser = argparse.ArgumentParser(prog="python -m lab.bench.history", description=main.__doc__)
    parser.add_argument("url")
    parser.add_argument("--stored", type=int, default=20_000_000, help="rows in all; a quarter of them orders")
    parser.add_argument("--open", type=int, default=600_000, help="orders that have not ended")
    asked = parser.parse_args()
    rows = asked.stored
    fill(
        asked.url, orders=rows // 4, still_open=asked.open, log=rows // 2, inbox=rows // 4,
        report=lambda text: print(text, file=sys.stderr),  # noqa: T201 - a program
    )  # fmt: skip


if __name__ == "__main__":
    main()
