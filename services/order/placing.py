"""Placing an order: prices, size, idempotency key, the row and its OrderPlaced, in one transaction."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from orderflow import clock, telemetry
from orderflow.contracts import Address, EventBus, Item, Money, OrderPlaced, OrderSnapshot, Workflow
from orderflow.database import Connection, Database
from orderflow.envelope import MAX_BYTES, Envelope, compose
from orderflow.errors import FieldError, Problem
from orderflow.outbox import Outbox
from orderflow.settings import Settings
from orderflow.trail import LogEntry
from services.order import coordinator, domain, models
from services.order.domain import Product
from services.order.models import Order
from services.order.schemas import OrderRequest

log = structlog.get_logger(__name__)

HEADROOM: Final = 16 * 1024
"""Bytes that later messages of an order may have more than its first: its items once more, a task token, a reason."""

_PRICES_LIVE: Final = 5.0
"""Seconds until changed products are seen."""

_CLAIM_KEY: Final = b"""
INSERT INTO idempotency_keys (key, fingerprint, order_id) VALUES (%s, %s, %s)
ON CONFLICT DO NOTHING RETURNING created_at
"""
_FIND_KEY: Final = b"SELECT fingerprint, order_id::text FROM idempotency_keys WHERE key = %s"


@dataclass(frozen=True, slots=True)
class Placed:
    """What came of a request. `created_at` is None for a replay: the order is there from an earlier one."""

    order_id: str
    created_at: datetime | None
    workflow: Workflow
    event_bus: EventBus
    total: Money
    traceparent: str | None


class Placing:
    """Places orders for one process."""

    def __init__(self, settings: Settings, database: Database, outbox: Outbox) -> None:
        self._settings = settings
        self._database = database
        self._outbox = outbox
        self._products: dict[str, Product] = {}
        self._read_at = float("-inf")

    def products(self) -> dict[str, Product]:
        """What is for sale, by SKU."""
        # No lock: with the database away, requests would wait for its timeout one after the other.
        if time.monotonic() - self._read_at > _PRICES_LIVE:
            rows = self._database.query("SELECT sku, name, amount, currency FROM products ORDER BY sku")
            self._products = {row[0]: Product(*row) for row in rows}
            self._read_at = time.monotonic()
        return self._products

    def place(self, asked: OrderRequest, key: str | None) -> Placed:
        """Stores the order and its OrderPlaced. The same key and body again give the same order.

        Raises Problem (422: what can't be ordered, or a key that was used for another body) and Transient.
        """
        workflow, event_bus = self._route(asked)
        snapshot = self._snapshot(asked)
        traceparent = telemetry.new_trace()
        order = Order(
            clock.new_id(), workflow, event_bus, traceparent, clock.new_id(), clock.new_id(),
            set(), "", False, False, 0, 0.0, 0.0, 0.0,
        )  # fmt: skip
        placed = _order_placed(order, snapshot)
        with self._outbox.transaction() as unit:
            claimed = self._claim(unit.connection, key, asked, order.id) if key is not None else None
            if key is not None and claimed is None:
                placed_before = self._earlier(unit.connection, key, asked)
                telemetry.about_order(placed_before.order_id, placed_before.workflow.value, placed_before.traceparent)
                return placed_before
            telemetry.about_order(order.id, workflow.value)
            first_look = coordinator.first_look(order, self._settings)
            created = models.insert(unit.connection, order, asked.customer_id, snapshot, first_look)
            models.LOG.write(unit.connection, [LogEntry(order.id, "order", "event", "OrderPlaced", order.placed_id)])
            unit.stage([placed])
            # Both rows have the transaction's time: with a key, no statement need be waited for once more.
            accepted = Placed(order.id, claimed or created(), workflow, event_bus, snapshot.total, traceparent)
        log.info("order accepted", event_bus=event_bus.value, **placed.about)
        return accepted

    def _route(self, asked: OrderRequest) -> tuple[Workflow, EventBus]:
        settings = self._settings
        errors = [
            FieldError(f"/{name}", "all orders run alike here; ALLOW_WORKFLOW_OVERRIDE=true lets each choose")
            for name, value in (("workflow", asked.workflow), ("event_bus", asked.event_bus))
            if value is not None and not settings.override_allowed
        ]
        workflow = asked.workflow or settings.workflow_mode
        if errors:
            raise Problem(422, "Invalid order", "the order can't run as asked", tuple(errors))
        return workflow, asked.event_bus or settings.event_bus

    def _snapshot(self, asked: OrderRequest) -> OrderSnapshot:
        try:
            amount, currency = domain.total([(line.sku, line.quantity) for line in asked.items], self.products())
        except (domain.UnknownSku, domain.MixedCurrencies) as error:
            wrong = FieldError(f"/items/{error.line}/sku", str(error))
            raise Problem(422, "Invalid order", "a line can't be ordered", (wrong,)) from None
        return OrderSnapshot(
            items=tuple(Item(sku=line.sku, quantity=line.quantity) for line in asked.items),
            total=Money(amount=amount, currency=currency),
            payment_method=asked.payment_method,
            address=Address(**asked.shipping_address.model_dump()),
        )

    def _claim(self, connection: Connection, key: str, asked: OrderRequest, order_id: str) -> datetime | None:
        # A twin that is under way holds this row: the statement waits for its commit.
        rows = connection.execute(_CLAIM_KEY, [key, _fingerprint(asked), order_id]).fetchall()
        return rows[0][0] if rows else None

    def _earlier(self, connection: Connection, key: str, asked: OrderRequest) -> Placed:
        [(fingerprint, order_id)] = connection.execute(_FIND_KEY, [key]).fetchall()
        if bytes(fingerprint) != _fingerprint(asked):
            wrong = FieldError("/Idempotency-Key", "was used for another order; take a new key for each order")
            raise Problem(422, "Idempotency key reused", wrong.detail, (wrong,))
        [(workflow, event_bus, amount, currency, traceparent)] = connection.execute(
            "SELECT workflow, event_bus, amount, currency, traceparent FROM orders WHERE id = %s", [order_id]
        ).fetchall()
        total = Money(amount=amount, currency=currency)
        return Placed(order_id, None, Workflow(workflow), EventBus(event_bus), total, traceparent)


def _order_placed(order: Order, snapshot: OrderSnapshot) -> Envelope:
    envelope = compose(
        OrderPlaced(order=snapshot),
        source="order",
        order_id=order.id,
        workflow=order.workflow,
        event_bus=order.event_bus,
        message_id=order.placed_id,
        traceparent=order.traceparent,
    )
    if len(envelope.encode()) > MAX_BYTES - HEADROOM:
        raise Problem(413, "Order too large", f"as a message it is over {MAX_BYTES - HEADROOM} bytes; split the order")
    return envelope


def _fingerprint(asked: OrderRequest) -> bytes:
    # Without defaults: the same body stays the same when a later version knows another optional field.
    return hashlib.sha256(asked.model_dump_json(exclude_defaults=True).encode()).digest()
